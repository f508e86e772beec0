//! Hosts that are emptied and filled again, and which of them could take an instance.

use vmferry_proto::fleet::{
    self as messages, DrainEvent, DrainRequest, DrainTotals, UndrainRequest, Wish, drain_event::Event,
};

use crate::{Client, Error};

impl Client {
    /// Which hosts could take an instance, the best first, and why the others could not. `all_hosts` asks also those that are known to be unfit.
    pub async fn check(&self, wish: Wish, all_hosts: bool) -> Result<messages::CheckResponse, Error> {
        let request = messages::CheckRequest { wish: Some(wish), all_hosts };
        let answer = self.calls.clone().check(request).await;
        self.read(answer)
    }

    /// Lets no guest come to these hosts any more.
    pub async fn cordon(&self, hosts: Vec<String>, reason: &str) -> Result<Vec<messages::CordonedHost>, Error> {
        let request = messages::CordonRequest { hosts, reason: reason.to_owned() };
        let answer = self.calls.clone().cordon(request).await;
        self.read(answer).map(|answer| answer.hosts)
    }

    /// Lets guests come to these hosts again.
    pub async fn uncordon(&self, hosts: Vec<String>) -> Result<Vec<messages::UncordonedHost>, Error> {
        let request = messages::UncordonRequest { hosts };
        let answer = self.calls.clone().uncordon(request).await;
        self.read(answer).map(|answer| answer.hosts)
    }

    /// Moves every guest that runs on a host to another one, and tells of each. `None`: a dry run, of which there is only the plan.
    ///
    /// Dropped, it lets nobody start any more. After an error that may pass, the same again goes on with those that are left.
    pub async fn drain(
        &self,
        request: DrainRequest,
        mut event: impl FnMut(Event),
    ) -> Result<Option<DrainTotals>, Error> {
        let answer = self.calls.clone().drain(request).await;
        let mut stream = self.read(answer)?;
        let mut totals = None;
        while let Some(response) = stream.message().await.map_err(|status| Error::of(&status, &self.name))? {
            tell(response.event, &mut totals, &mut event);
        }
        Ok(totals)
    }

    /// Lets guests come to a host again and, if that is asked for, brings home those that have left it. As [`Client::drain`].
    pub async fn undrain(
        &self,
        request: UndrainRequest,
        mut event: impl FnMut(Event),
    ) -> Result<Option<DrainTotals>, Error> {
        let answer = self.calls.clone().undrain(request).await;
        let mut stream = self.read(answer)?;
        let mut totals = None;
        while let Some(response) = stream.message().await.map_err(|status| Error::of(&status, &self.name))? {
            tell(response.event, &mut totals, &mut event);
        }
        Ok(totals)
    }
}

fn tell(news: Option<DrainEvent>, totals: &mut Option<DrainTotals>, event: &mut impl FnMut(Event)) {
    match news.and_then(|news| news.event) {
        Some(Event::Totals(last)) => *totals = Some(last),
        Some(other) => event(other),
        None => {} // An event that this version does not know.
    }
}
