//! A guest that arrives paused, and waits until its source has released it.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use turmoil::net::{TcpListener, TcpStream};
use vmferry_agent::hypervisor::{Fault, HandingOver};
use vmferry_core::{agent::Sighting, id::InstanceId, migration::Order, reason::Reason, resolution::Domain};

use super::{host::Fake, world::World};

/// Where a simulated agent hears of releases, and how long it may take to answer.
const RELEASES: u16 = 2;
const ANSWER: Duration = Duration::from_secs(5);

impl World {
    /// In a simulation: the destination's end of the tunnel.
    pub(crate) async fn hear_releases(self: Arc<Self>) -> io::Result<()> {
        let listener = TcpListener::bind((IpAddr::from([0, 0, 0, 0]), RELEASES)).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            let world = Arc::clone(&self);
            tokio::spawn(async move {
                let mut id = vec![0; 36];
                stream.read_exact(&mut id).await?;
                let id = String::from_utf8_lossy(&id).parse().map_err(io::Error::other)?;
                let release = world.facts().released.get(&id).cloned();
                let release = release.ok_or_else(|| io::Error::other("nobody was granted that"))?;
                stream.write_u8(release().await.is_ok().into()).await
            });
        }
    }
}

impl Fake {
    async fn release_by_network(&self, order: &Order) -> Result<(), Fault> {
        let told = async {
            let mut stream = TcpStream::connect(("destination", RELEASES)).await?;
            stream.write_all(order.id.to_string().as_bytes()).await?;
            stream.read_u8().await
        };
        match timeout(ANSWER, told).await {
            Ok(Ok(1)) => self.step("hearing that it runs", || ()).await,
            told => Err(Fault::new(Reason::ResumeUnanswered, format!("{told:?}"))),
        }
    }
}

impl HandingOver for Fake {
    async fn open_release(&self, order: &Order) -> Result<(), Fault> {
        assert!(order.is_strict());
        self.step("opening the way of the release", || ()).await
    }

    async fn release(&self, order: &Order) -> Result<(), Fault> {
        self.assert_journaled("\"released\"");
        assert_ne!(self.world.sees("source"), Sighting::Running, "I1: nothing is released that runs");
        // The request is lost, or the answer.
        self.step("telling of the release", || ()).await?;
        if self.world.is_simulated() {
            return self.release_by_network(order).await;
        }
        let release = self.world.facts().released.get(&order.id).cloned();
        let unanswered = |message| Fault::new(Reason::ResumeUnanswered, message);
        let release = release.ok_or_else(|| unanswered("nobody was granted that".to_owned()))?;
        let mut dropped = self.world.dropped.subscribe();
        tokio::select! {
            answer = release() => answer.map_err(unanswered)?,
            _ = dropped.changed() => return Err(unanswered("it is gone".to_owned())),
        }
        self.step("hearing that it runs", || ()).await
    }

    async fn let_go_on(&self, _: InstanceId) -> Result<(), Fault> {
        self.assert_journaled("\"phase\":\"cleanup\"");
        self.step("letting it go on", || {
            if self.world.seen(self.name).domain == Domain::PausedToMove {
                self.world.set(self.name, Some((Sighting::Running, true)));
            }
        })
        .await
    }

    async fn resume_arrived(&self, _: InstanceId) -> Result<(), Fault> {
        match self.world.sees(self.name) {
            Sighting::Paused => {}
            Sighting::Running => return Ok(()),
            seen => return Err(Fault::new(Reason::LibvirtFailed, format!("it is {seen:?}"))),
        }
        // Both phases that begin there.
        self.assert_journaled("\"phase\":\"migrate\"");
        let is_there = || {
            let is_there = self.world.sees(self.name) == Sighting::Paused;
            if is_there {
                self.world.set(self.name, Some((Sighting::Running, true)));
            }
            is_there
        };
        match self.step("letting it run", is_there).await? {
            true => Ok(()),
            false => Err(Fault::new(Reason::LibvirtFailed, "it is not there any more")),
        }
    }

    async fn destroy_arrived(&self, _: InstanceId) -> Result<(), Fault> {
        self.assert_journaled("\"kept\"");
        self.step("destroying what has arrived", || {
            assert_eq!(self.world.sees("source"), Sighting::Running, "I4: it is not the only copy");
            if self.world.sees(self.name) == Sighting::Paused {
                self.world.set(self.name, None);
            }
        })
        .await
    }
}
