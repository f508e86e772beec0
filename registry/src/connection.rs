//! A connection to one member that has a leader.

use std::{fs, path::Path, time::Duration};

use etcd_client::{Channel, Client, ConnectOptions, GetOptions, GetResponse, KeyValue, WatchOptions, WatchStream};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::timeout;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint as Member, Identity};
use vmferry_core::migration::Endpoint;

use crate::{
    Error, Settings, Skipped, TlsFiles, User,
    entry::{self},
    error::innermost,
};

/// How long connecting to a member, or an answer of it, may take. Longer than an election of its leader usually is.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

/// How often a connection that waits for something is probed, and how long the answer may take. etcd refuses clients that probe
/// more often than every 5 s.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A few hundred thousand hosts.
const MESSAGE_LIMIT: usize = 64 << 20;

/// etcd, as far as it has hosts.
#[derive(Clone)]
pub struct Registry {
    pub(crate) client: Client,
    pub(crate) prefix: String,
}

impl Registry {
    /// Connects to whichever member is the first to say that it has a leader.
    ///
    /// # Errors
    ///
    /// None did within a few seconds; the error has a reason for each.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        let tls = settings.tls.as_ref().map(tls).transpose()?;
        let user = settings.user.as_ref().map(password).transpose()?;
        let mut members: FuturesUnordered<_> = settings
            .endpoints
            .iter()
            .map(|endpoint| {
                let member = Box::pin(member(endpoint, tls.clone(), user.clone()));
                async move {
                    let connected = timeout(LIMIT, member).await.unwrap_or(Err(Error::Silent(LIMIT)));
                    connected.map_err(|error| (endpoint, error))
                }
            })
            .collect();
        let mut reasons = Vec::new();
        while let Some(connected) = members.next().await {
            match connected {
                Ok(client) => return Ok(Self { client, prefix: settings.prefix.clone() }),
                Err((_, error)) if settings.endpoints.len() == 1 => return Err(error),
                Err((endpoint, error)) => reasons.push(format!("{endpoint} {error}")),
            }
        }
        Err(Error::Unreachable(reasons))
    }

    /// The hosts that are registered now, in order of their names, and the keys that name none.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or refuses us.
    pub async fn hosts(&self) -> Result<(Vec<Endpoint>, Vec<Skipped>), Error> {
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
        let answer = within(client.get(self.prefix.as_str(), Some(GetOptions::new().with_prefix()))).await?;
        let (mut hosts, mut skipped) = (Vec::new(), Vec::new());
        for pair in answer.kvs() {
            match entry::read(&self.prefix, pair) {
                Ok(host) => hosts.push(host),
                Err(why) => skipped.push(why),
            }
        }
        Ok((hosts, skipped))
    }

    /// What is said from now on about which hosts there are.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or refuses us.
    pub async fn changes(&self) -> Result<Changes, Error> {
        let mut client = self.client.clone();
        let stream = within(client.watch(self.prefix.as_str(), Some(WatchOptions::new().with_prefix()))).await?;
        Ok(Changes(stream))
    }

    /// The key of a host.
    pub(crate) fn key(&self, host: &Endpoint) -> String {
        format!("{}{}", self.prefix, host.host)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Tells that hosts come and go. Not which: whoever hears it asks again for all.
#[derive(Debug)]
pub struct Changes(WatchStream);

impl Changes {
    /// Returns when at least one host has come, gone or moved.
    ///
    /// # Errors
    ///
    /// The connection broke, or etcd has ended the watch: changes may have been missed.
    pub async fn next(&mut self) -> Result<(), Error> {
        loop {
            let message = self.0.message().await?.ok_or(Error::Refused("it ended the watch".into()))?;
            if message.canceled() {
                return Err(Error::Refused(format!("it ended the watch: {}", message.cancel_reason())));
            }
            if !message.events().is_empty() {
                return Ok(());
            }
        }
    }
}

/// The one pair of an answer.
pub(crate) fn only(answer: &GetResponse) -> Option<&KeyValue> {
    answer.kvs().first()
}

/// A call with a deadline. What etcd's client makes of it is large.
pub(crate) fn within<T>(
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> impl Future<Output = Result<T, Error>> {
    let call = timeout(LIMIT, Box::pin(call));
    async move { Ok(call.await.map_err(|_| Error::Silent(LIMIT))??) }
}

async fn member(endpoint: &str, tls: Option<ClientTlsConfig>, user: Option<(String, String)>) -> Result<Client, Error> {
    let unusable = |error: tonic::transport::Error| Error::Unreachable(vec![innermost(&error)]);
    let mut member = Member::from_shared(endpoint.to_owned()).map_err(unusable)?;
    if let Some(tls) = tls.filter(|_| endpoint.starts_with("https://")) {
        member = member.tls_config(tls).map_err(unusable)?;
    }
    let member =
        member.connect_timeout(LIMIT).http2_keep_alive_interval(PROBE_INTERVAL).keep_alive_timeout(PROBE_TIMEOUT);
    let channel = member.connect().await.map_err(unusable)?;
    // Tokens of etcd's live for minutes, registrations for months.
    let mut options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
    if let Some((name, password)) = user {
        options = options.with_user(name, password);
    }
    let connected = async {
        let mut client = Client::from_channel(Channel::Tonic(channel), Some(options)).await?;
        let leader = client.status().await?.leader();
        Ok::<_, etcd_client::Error>((client, leader))
    };
    match connected.await.map_err(Error::from) {
        Ok((client, leader)) if leader != 0 => Ok(client),
        // It is cut off from the others, and knows nothing.
        Ok(_) => Err(Error::Refused("it has no leader; see to the other members".into())),
        // With TLS 1.3 we have finished the handshake before it looks at our certificate, and the alert is lost on its way here.
        Err(Error::Unreachable(reasons)) if endpoint.starts_with("https://") => {
            let hint = "it may want another certificate of ours: see tls.certificate and tls.key";
            Err(Error::Unreachable(reasons.into_iter().map(|reason| format!("{reason}; {hint}")).collect()))
        }
        Err(error) => Err(error),
    }
}

fn tls(files: &TlsFiles) -> Result<ClientTlsConfig, Error> {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&files.ca)?));
    let Some((certificate, key)) = &files.ours else { return Ok(config) };
    Ok(config.identity(Identity::from_pem(read(certificate)?, read(key)?)))
}

fn password(user: &User) -> Result<(String, String), Error> {
    let password = String::from_utf8_lossy(&read(&user.password_file)?).trim_end_matches(['\r', '\n']).to_owned();
    Ok((user.name.clone(), password))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}
