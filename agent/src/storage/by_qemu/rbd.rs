use std::time::Duration;

use futures::future::join_all;
use vmferry_core::volume::Rbd;

use super::{FindError, Key, Sighting, unanswered};
use crate::storage::{
    look::{Meaning, Silence},
    rbd::{self, Trouble},
};

const LIBRARY: &str = "librbd";
const PACKAGE: &str = "librbd1";

/// All images, one look for each cluster and user. Answers in the order of the question.
pub(super) async fn find(images: &[(&Rbd, Key<'_>)], limit: Duration) -> Vec<Result<Sighting, FindError>> {
    let looks = clusters(images).into_iter().map(|asked| async move {
        let (of_it, key): (Vec<_>, _) = (asked.iter().map(|index| images[*index].0).collect(), images[asked[0]].1);
        let answers = match rbd::ask(&of_it, key.map(|(_, secret)| secret), limit).await {
            Ok(answers) => answers.into_iter().zip(&of_it).map(|(answer, rbd)| told(rbd, answer)).collect(),
            Err(silence) => of_it.iter().map(|rbd| Err(silent(rbd, &silence))).collect::<Vec<_>>(),
        };
        asked.into_iter().zip(answers).collect::<Vec<_>>()
    });
    let mut answers: Vec<_> = join_all(looks).await.into_iter().flatten().collect();
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Which of these images are reached in one way as one user, by their indices.
fn clusters(images: &[(&Rbd, Key<'_>)]) -> Vec<Vec<usize>> {
    let way = |index: usize| {
        let rbd = images[index].0;
        (&rbd.monitors, &rbd.configuration, &rbd.login)
    };
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for index in 0..images.len() {
        match clusters.iter_mut().find(|cluster| way(cluster[0]) == way(index)) {
            Some(cluster) => cluster.push(index),
            None => clusters.push(vec![index]),
        }
    }
    clusters
}

fn told(rbd: &Rbd, answer: Result<vmferry_core::volume::Found, Trouble>) -> Result<Sighting, FindError> {
    let found = answer.map_err(|trouble| judge(rbd, &trouble))?;
    Ok(Sighting { found, portal: None })
}

fn silent(rbd: &Rbd, silence: &Silence<Trouble>) -> FindError {
    unanswered(silence, rbd.to_string(), monitors(rbd), LIBRARY, |trouble| judge(rbd, trouble))
}

fn judge(rbd: &Rbd, trouble: &Trouble) -> FindError {
    let (volume, at, why) = (rbd.to_string(), monitors(rbd), trouble.to_string());
    match (trouble, trouble.meaning()) {
        (Trouble::Library(_), _) => FindError::NoTool { program: LIBRARY, package: PACKAGE, why },
        (_, Meaning::Gone) => FindError::Gone { volume, why },
        (_, Meaning::Unreachable) => FindError::Unreachable { volume, at, why },
        (_, Meaning::Denied) => {
            let user = rbd.login.as_ref().map_or("nobody", |login| &login.user).to_owned();
            FindError::Denied { volume, user, why }
        }
        (_, Meaning::Other) => FindError::Unusable { volume, at, why },
    }
}

fn monitors(rbd: &Rbd) -> String {
    if rbd.monitors.is_empty() {
        format!("the monitors of {}", rbd.configuration.as_deref().unwrap_or("/etc/ceph/ceph.conf"))
    } else {
        rbd.monitors.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{rbd::Step, tool::Failed};
    use vmferry_core::volume::{Login, SecretName};

    fn image() -> Rbd {
        Rbd {
            monitors: vec!["192.0.2.1:6789".into(), "[2001:db8::1]:3300".into()],
            configuration: None,
            image: "vms/web".into(),
            snapshot: None,
            login: Some(Login { user: "web".into(), secret: SecretName::Usage("ceph".into()) }),
        }
    }

    #[test]
    fn a_cluster_is_looked_at_once_for_each_way_and_user() {
        let (one, same) = (image(), image());
        let other_image = Rbd { image: "backup/web".into(), snapshot: Some("nightly".into()), ..image() };
        let other_user = Rbd { login: None, ..image() };
        let other_cluster = Rbd { monitors: vec![], configuration: Some("/etc/ceph/b.conf".into()), ..image() };
        let images = [&one, &other_user, &other_image, &other_cluster, &same].map(|rbd| (rbd, None));
        assert_eq!(clusters(&images), [vec![0, 2, 4], vec![1], vec![3]]);
        assert_eq!(clusters(&[]), [[0_usize; 0]; 0]);
    }

    #[test]
    fn what_ceph_says_no_with_says_what_is_wrong() {
        let judged = |step, number| judge(&image(), &Trouble::Ceph { step, number });
        for step in [Step::OpenPool, Step::OpenImage] {
            assert!(matches!(judged(step, libc::ENOENT), FindError::Gone { .. }), "{step}");
        }
        // Each as librados said it, asked for a cluster that does not answer, or of which it knows no monitors.
        for (step, number) in [
            (Step::Connect, libc::ETIMEDOUT),
            (Step::Connect, libc::ENOENT),
            (Step::OpenImage, libc::ETIMEDOUT),
            (Step::Configure, libc::ENOENT),
        ] {
            let error = judged(step, number);
            assert!(error.is_transient(), "{error:?}");
            assert!(error.to_string().contains("192.0.2.1:6789, [2001:db8::1]:3300"), "{error}");
        }
        for (step, number) in
            [(Step::Connect, libc::EACCES), (Step::Connect, libc::EOPNOTSUPP), (Step::OpenImage, libc::EPERM)]
        {
            let error = judged(step, number);
            assert!(matches!(&error, FindError::Denied { user, .. } if user == "web"), "{error:?}");
        }
        let broken = judged(Step::ReadImage, libc::EIO).to_string();
        assert!(broken.contains("rbd:vms/web") && broken.contains("I/O error"), "{broken}");
        let missing = judge(&image(), &Trouble::Library("librbd.so.1: cannot open shared object file".into()));
        assert!(missing.to_string().contains("apt-get install librbd1"), "{missing}");
    }

    #[test]
    fn a_process_that_hangs_is_a_cluster_that_does_not_answer() {
        let how = "gave no answer within 10s and was killed".to_owned();
        let failed = Failed { command: "/proc/self/exe look-at-rbd".into(), code: None, how };
        let error = silent(&image(), &Silence::Failed(failed));
        assert!(matches!(error, FindError::Unreachable { .. }), "{error:?}");
    }
}
