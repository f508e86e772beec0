//! The process that looks at images.

use std::{io, time::Instant};

use vmferry_core::volume::Found;

use super::{Name, Question, Step, Trouble, identity, library};
use crate::storage::look::{self, Answer};

/// Answers one question, and ends the process.
pub fn answer() -> io::Result<()> {
    look::answer(look_at_all)
}

fn look_at_all(question: Question<'static>) -> Answer<Found, Trouble> {
    let deadline = Instant::now() + question.patience;
    let cluster = library::Cluster::connect(&question)?;
    let fsid = cluster.fsid().map_err(|number| Trouble::Ceph { step: Step::Connect, number })?;
    let silent = Err(Trouble::Ceph { step: Step::OpenImage, number: libc::ETIMEDOUT });
    let look = move |name: Name| look_at(&cluster, &fsid, &name);
    Ok(look::all(question.images, deadline, silent, look))
}

fn look_at(cluster: &library::Cluster, fsid: &str, name: &Name) -> Result<Found, Trouble> {
    let at = |step| move |number| Trouble::Ceph { step, number };
    let pool = cluster.pool(&name.pool, &name.namespace).map_err(at(Step::OpenPool))?;
    let image = pool.image(&name.image, name.snapshot.as_deref()).map_err(at(Step::OpenImage))?;
    let size = image.size().map_err(at(Step::ReadImage))?;
    let id = image.id().map_err(at(Step::ReadImage))?;
    Ok(Found { size, identity: identity(&id, fsid) })
}
