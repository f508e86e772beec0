//! The process that looks: a question on its standard input, the answer on its standard output.

use std::{
    io::{self, Write as _},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use vmferry_core::volume::Found;

use super::{Answer, Name, Question, Step, Trouble, identity, library};

/// Answers one question, and ends the process.
pub fn answer() -> io::Result<()> {
    let question: Question<'_> = serde_json::from_reader(io::stdin().lock())?;
    let answer = look(question);
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    out.flush()?;
    // Threads that still wait for the cluster would meet C++'s destructors.
    library::exit()
}

/// All at once: an image that does not answer holds up no other.
fn look(question: Question<'_>) -> Answer {
    let deadline = Instant::now() + question.patience;
    let cluster = Arc::new(library::Cluster::connect(&question)?);
    let fsid: Arc<str> = cluster.fsid().map_err(|number| Trouble::Ceph { step: Step::Connect, number })?.into();
    let silent = Trouble::Ceph { step: Step::OpenImage, number: libc::ETIMEDOUT };
    let mut answers = vec![Err(silent); question.images.len()];
    let (send, receive) = mpsc::channel();
    for (index, name) in question.images.into_iter().enumerate() {
        let (cluster, fsid, send) = (Arc::clone(&cluster), Arc::clone(&fsid), send.clone());
        thread::spawn(move || {
            // Nobody listens any more after the deadline.
            let _ = send.send((index, look_at(&cluster, &fsid, &name)));
        });
    }
    drop(send);
    while let Ok((index, answer)) = receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        answers[index] = answer;
    }
    Ok(answers)
}

fn look_at(cluster: &library::Cluster, fsid: &str, name: &Name) -> Result<Found, Trouble> {
    let at = |step| move |number| Trouble::Ceph { step, number };
    let pool = cluster.pool(&name.pool, &name.namespace).map_err(at(Step::OpenPool))?;
    let image = pool.image(&name.image, name.snapshot.as_deref()).map_err(at(Step::OpenImage))?;
    let size = image.size().map_err(at(Step::ReadImage))?;
    let id = image.id().map_err(at(Step::ReadImage))?;
    Ok(Found { size, identity: identity(&id, fsid) })
}
