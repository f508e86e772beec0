//! Who looks on is told when a host is not heard, and when it is again.

use std::{convert::Infallible, future::pending, time::Duration};

use tokio::{select, sync::watch::Receiver, time::timeout};
use vmferry_core::{
    agent::{Agent as _, CallError},
    flow::Watch,
    id::HostName,
};

use crate::client::RemoteAgent;

/// How long nobody speaks of it: an agent that is restarted is back at once, or nearly.
const MOMENT: Duration = Duration::from_millis(500);

/// Tells `watch`, while the flow goes on, when this agent does not answer it.
pub(crate) async fn heeding<T>(agent: &RemoteAgent, watch: &impl Watch, flow: impl Future<Output = T>) -> T {
    select! {
        biased;
        result = flow => result,
        never = heed(agent.host(), agent.silence(), watch) => match never {},
    }
}

async fn heed(host: &HostName, mut silence: Receiver<Option<CallError>>, watch: &impl Watch) -> Infallible {
    loop {
        if silence.wait_for(Option::is_some).await.is_err() {
            return pending().await;
        }
        if timeout(MOMENT, silence.wait_for(Option::is_none)).await.is_ok() {
            continue;
        }
        let Some(why) = silence.borrow().clone() else { continue };
        watch.unheard(&why);
        if silence.wait_for(Option::is_none).await.is_err() {
            return pending().await;
        }
        watch.heard(host);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::{sync::watch, time::sleep};
    use vmferry_core::{
        migration::{Phase, Progress},
        reason::Reason,
    };

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Watch for Told {
        fn phase(&self, _: Phase) {}
        fn progress(&self, _: Progress) {}
        fn unheard(&self, why: &CallError) {
            self.0.lock().expect("sound").push(why.message.clone());
        }
        fn heard(&self, host: &HostName) {
            self.0.lock().expect("sound").push(host.to_string());
        }
        fn is_cancelled(&self) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_of_silence_is_nothing_to_speak_of_and_a_longer_one_is_told_with_its_end() {
        let host: HostName = "node-28".parse().expect("valid");
        let why = CallError { host: host.clone(), reason: Reason::AgentUnreachable, message: "refused".into() };
        let (silence, told) = (watch::Sender::new(None), Told::default());
        let said = || told.0.lock().expect("sound").clone();
        let course = async {
            silence.send_replace(Some(why.clone()));
            sleep(MOMENT / 2).await;
            silence.send_replace(None);
            sleep(MOMENT * 2).await;
            assert_eq!(said(), Vec::<String>::new());

            silence.send_replace(Some(why.clone()));
            sleep(MOMENT * 2).await;
            // It was asked again, and is still not heard.
            silence.send_replace(Some(why.clone()));
            sleep(MOMENT * 2).await;
            assert_eq!(said(), ["refused"]);
            silence.send_replace(None);
            sleep(MOMENT).await;
            assert_eq!(said(), ["refused", "node-28"]);
        };
        select! {
            () = course => {}
            never = heed(&host, silence.subscribe(), &told) => match never {},
        }
    }
}
