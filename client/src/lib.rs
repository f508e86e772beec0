//! A client of VMFerry's coordinators (`vmferry serve`): what a fleet has, and moves of its virtual machines.
//!
//! ```no_run
//! # async fn example() -> Result<(), vmferry_client::Error> {
//! use vmferry_client::{Client, Config, Wish};
//!
//! let config = Config::new("fleet.example.org:7444", "/etc/vmferry/pki".as_ref());
//! let client = Client::connect(&config).await?;
//! for instance in client.list_instances().await?.instances {
//!     println!("{} on {}", instance.name, instance.host);
//! }
//! let wish = Wish { instance: "web".into(), destination: "node-31".into(), ..Wish::default() };
//! let ended = client.migrate(wish, |_event| {}).await?;
//! println!("{}", ended.message);
//! # Ok(())
//! # }
//! ```
//!
//! Messages are those of the protos ([`messages`], [`agent`]), which have the documentation of their fields; so has `docs/api`.
//! Any number of coordinators may stand behind one address: none of them keeps anything, so that a call that one of them did
//! not answer may be made again.

mod drain;
mod error;
mod migrate;

use std::{path::Path, time::Duration};

use tonic::transport::Channel;
use uuid::Uuid;
use vmferry_proto::fleet::fleet_service_client::FleetServiceClient;
pub use vmferry_proto::{
    fleet::{self as messages, Ended, Wish, migrate_response::Event},
    v1 as agent,
};
use vmferry_transport::{Callee, CertificateFiles};

pub use error::Error;

/// How long connecting may take, TLS and all.
const CONNECT: Duration = Duration::from_secs(5);

/// How often the certificate files are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);

/// A history may be long; tonic's own limit is 4 MiB.
const MESSAGE_LIMIT: usize = 64 << 20;

/// Whom to call, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// HOST:PORT of a coordinator, or of several behind one name.
    pub address: String,
    /// The DNS name or IP address that its certificate is for.
    pub name: String,
    /// Our certificate, its key, and the CA of the cluster.
    pub certificates: CertificateFiles,
}

impl Config {
    /// Calls `address` (HOST:PORT) with what `vmferry pki issue` has made: `ca.pem`, `cert.pem` and `key.pem` in `directory`. The
    /// coordinator's certificate must be for that HOST.
    pub fn new(address: &str, directory: &Path) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Self {
            address: address.to_owned(),
            name: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            certificates: CertificateFiles::in_directory(directory),
        }
    }
}

/// A connection to a coordinator, made when first used and again after a break. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    name: String,
    calls: FleetServiceClient<Channel>,
}

impl Client {
    /// Reads the certificates. Calls nobody yet. Certificates that are replaced are taken up by connections made from then on.
    ///
    /// # Errors
    ///
    /// The certificates cannot serve.
    pub async fn connect(config: &Config) -> Result<Self, Error> {
        let watched = vmferry_transport::watch_files(config.certificates.clone(), CERTIFICATE_INTERVAL).await;
        let (credentials, reload) = watched.map_err(Error::certificates)?;
        // It ends with the last clone.
        tokio::spawn(reload);
        let callee = Callee::Coordinator(config.name.clone());
        let (channel, _) = vmferry_transport::channel(credentials, callee, &config.address, CONNECT);
        let calls = FleetServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        Ok(Self { name: config.name.clone(), calls })
    }

    /// The hosts that the coordinator knows, and where their agents are. Asks none of them.
    pub async fn list_inventory(&self) -> Result<messages::ListInventoryResponse, Error> {
        let answer = self.calls.clone().list_inventory(messages::ListInventoryRequest {}).await;
        self.read(answer)
    }

    /// All hosts, those that do not answer among them.
    pub async fn list_hosts(&self) -> Result<Vec<messages::FleetHost>, Error> {
        let answer = self.calls.clone().list_hosts(messages::ListHostsRequest {}).await;
        self.read(answer).map(|answer| answer.hosts)
    }

    /// The instances of all hosts, and which hosts could not be asked.
    pub async fn list_instances(&self) -> Result<messages::ListInstancesResponse, Error> {
        let answer = self.calls.clone().list_instances(messages::ListInstancesRequest {}).await;
        self.read(answer)
    }

    /// An instance by its name, its UUID, or the beginning of one of them.
    pub async fn get_instance(&self, instance: &str) -> Result<agent::Instance, Error> {
        let request = messages::GetInstanceRequest { instance: instance.to_owned(), host: String::new() };
        let answer = self.calls.clone().get_instance(request).await;
        self.read(answer)?.instance.ok_or_else(|| self.nonsense("instance"))
    }

    /// The migrations that the hosts know of, newest first, and which hosts could not be asked.
    pub async fn list_migrations(&self, active_only: bool) -> Result<messages::ListMigrationsResponse, Error> {
        let answer = self.calls.clone().list_migrations(messages::ListMigrationsRequest { active_only }).await;
        self.read(answer)
    }

    /// A migration by its id, or by the instance that moves or moved last.
    pub async fn get_migration(&self, migration: &str) -> Result<messages::FleetMigration, Error> {
        let answer =
            self.calls.clone().get_migration(messages::GetMigrationRequest { migration: migration.to_owned() }).await;
        self.read(answer)?.migration.ok_or_else(|| self.nonsense("migration"))
    }

    /// What [`migrate`](Self::migrate) would do, every check, and how it would go. Changes nothing.
    pub async fn plan(&self, wish: Wish) -> Result<messages::PlanResponse, Error> {
        let answer = self.calls.clone().plan(messages::PlanRequest { wish: Some(wish) }).await;
        self.read(answer)
    }

    /// Moves an instance, and returns when that has ended, whatever came of it: see [`Ended::outcome`].
    ///
    /// A coordinator that is restarted meanwhile, or replaced by another, is asked again. Whoever drops the future lets the
    /// migration go on.
    ///
    /// # Errors
    ///
    /// It was never begun; or what became of it cannot be known now, and [`Error::migration`] has its id to ask again with.
    pub async fn migrate(&self, wish: Wish, event: impl FnMut(Event)) -> Result<Ended, Error> {
        self.migrate_as(Uuid::now_v7(), wish, event).await
    }

    /// The same with an id that the caller has chosen and keeps: whoever asks again with it, from wherever, joins the migration or
    /// is told how it ended.
    pub async fn migrate_as(&self, id: Uuid, wish: Wish, event: impl FnMut(Event)) -> Result<Ended, Error> {
        migrate::migrate(self, id, wish, event).await
    }

    /// Ends a migration that goes on, waits or is being checked, whoever began it, and returns when it has ended; the guest stays on its
    /// source. Without an [`Ended::outcome`] nothing had been changed for it yet.
    pub async fn abort_migration(&self, migration: &str) -> Result<Ended, Error> {
        let request = messages::AbortMigrationRequest { migration: migration.to_owned() };
        let answer = self.calls.clone().abort_migration(request).await;
        self.read(answer)?.ended.ok_or_else(|| self.nonsense("ended"))
    }

    /// Tells the job of a migration something else than was asked for.
    pub async fn steer_migration(&self, migration: &str, change: agent::steering::Change) -> Result<(), Error> {
        let steering = Some(agent::Steering { change: Some(change) });
        let request = messages::SteerMigrationRequest { migration: migration.to_owned(), steering };
        let answer = self.calls.clone().steer_migration(request).await;
        self.read(answer).map(drop)
    }

    /// Looks on at a migration until its source has ended it, wherever it was begun. `after`: the token of the last response that
    /// was seen, 0 at first.
    pub async fn watch_migration(
        &self,
        migration: &str,
        after: u64,
    ) -> Result<tonic::Streaming<messages::WatchMigrationResponse>, Error> {
        let request = messages::WatchMigrationRequest { migration: migration.to_owned(), after };
        let answer = self.calls.clone().watch_migration(request).await;
        self.read(answer)
    }

    /// The calls as they are generated, for what there is no method for.
    pub fn calls(&self) -> FleetServiceClient<Channel> {
        self.calls.clone()
    }

    fn read<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
        answer.map(tonic::Response::into_inner).map_err(|status| Error::of(&status, &self.name))
    }

    fn nonsense(&self, field: &str) -> Error {
        Error::nonsense(&self.name, field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_for_the_host_of_the_address() {
        for (address, name) in [
            ("fleet.example.org:7444", "fleet.example.org"),
            ("192.0.2.1:7444", "192.0.2.1"),
            ("[2001:db8::1]:7444", "2001:db8::1"),
        ] {
            assert_eq!(Config::new(address, "/pki".as_ref()).name, name);
        }
    }

    #[tokio::test]
    async fn missing_certificates_are_told_before_anybody_is_called() {
        let config = Config::new("192.0.2.1:7444", "/nonexistent".as_ref());
        let error = Client::connect(&config).await.expect_err("there are none");
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    }
}
