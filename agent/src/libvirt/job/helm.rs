use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use vmferry_core::migration::Steering;

use crate::libvirt::Error;

/// Where a running job can be told something else than its order says. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Helm(Arc<Mutex<Option<mpsc::UnboundedSender<Told>>>>);

/// Why a job was not told.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// There is none.
    #[error("no job runs that could be told anything")]
    NoJob,
    /// No memory is sent yet.
    #[error("the job sends no memory yet")]
    TooEarly,
    /// The guest was stopped for its hand-over, or the job is being given up.
    #[error("the job is as good as over")]
    TooLate,
    /// The policy has taken its last step: there is no deadline any more.
    #[error("the policy has taken its last step")]
    PolicyEnded,
    /// The order does not allow it.
    #[error("the migration was not begun so that it could be switched to postcopy")]
    NotAllowed,
    /// The way to the destination is not as it should be for that, or it could not be remembered.
    #[error("{0}")]
    Way(String),
    /// libvirt does not take it.
    #[error(transparent)]
    Libvirt(#[from] Error),
}

/// A change, and where its answer is awaited.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) steering: Steering,
    pub(super) answer: oneshot::Sender<Result<(), SteeringError>>,
}

/// The helm in a job's hands. Given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    helm: Helm,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Helm {
    /// Tells the job. Returns once libvirt has taken it.
    pub async fn steer(&self, steering: Steering) -> Result<(), SteeringError> {
        let (answer, answered) = oneshot::channel();
        let told = self.lock().as_ref().is_some_and(|job| job.send(Told { steering, answer }).is_ok());
        if !told {
            return Err(SteeringError::NoJob);
        }
        // A job that ends in between does not answer.
        answered.await.unwrap_or(Err(SteeringError::NoJob))
    }

    pub(super) fn hold(&self) -> Held {
        let (sender, told) = mpsc::unbounded_channel();
        *self.lock() = Some(sender);
        Held { helm: self.clone(), told }
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Told>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// What it is told next.
    pub(super) async fn next(&mut self) -> Told {
        match self.told.recv().await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.helm.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_a_job_that_runs_is_told() {
        let helm = Helm::default();
        let told = || helm.steer(Steering::Downtime(Duration::from_millis(5)));
        assert!(matches!(told().await, Err(SteeringError::NoJob)), "too early");
        let mut held = helm.hold();
        let job = async {
            let Told { answer, steering } = held.next().await;
            assert_eq!(steering, Steering::Downtime(Duration::from_millis(5)));
            answer.send(Ok(())).expect("it is waited for");
        };
        let (answer, ()) = tokio::join!(told(), job);
        assert!(answer.is_ok(), "{answer:?}");
        // A job that ends without an answer has not taken it.
        let (answer, ()) = tokio::join!(told(), async { drop(held) });
        assert!(matches!(answer, Err(SteeringError::NoJob)), "{answer:?}");
        assert!(matches!(told().await, Err(SteeringError::NoJob)), "too late");
    }
}
