//! From certificates and a key to what TLS needs.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio::sync::watch;
use vmferry_core::identity::{Identity, Role};

use crate::{
    CertificateFiles, Error, Protocol,
    certificate::CertificateFacts,
    files::{read_certificates, read_key},
    verify::{ClientOfCluster, ServerOfCluster},
};

/// Who we are, and all that TLS needs to prove it and to judge others. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Credentials(Arc<Loaded>);

struct Loaded {
    identity: Identity,
    not_after: Timestamp,
    server: Arc<ServerConfig>,
    grpc_client: Arc<ClientConfig>,
    tunnel_client: Arc<ClientConfig>,
    agents_client: Arc<ClientConfig>,
    coordinator_client: Arc<ClientConfig>,
    names: Vec<String>,
}

impl Credentials {
    /// Our own identity.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// When our own certificate expires, or has expired.
    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }

    /// How to serve: every protocol, to clients with a certificate of this cluster.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.server)
    }

    /// How to call an agent of this cluster.
    pub fn client_config(&self, protocol: Protocol) -> Arc<ClientConfig> {
        Arc::clone(match protocol {
            Protocol::Grpc => &self.0.grpc_client,
            Protocol::Tunnel => &self.0.tunnel_client,
            Protocol::Agents => &self.0.agents_client,
        })
    }

    /// How to call a coordinator of this cluster.
    pub fn coordinator_client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.coordinator_client)
    }

    /// The DNS names and addresses at which peers accept us as a server. Empty: we can only call.
    pub fn names(&self) -> &[String] {
        &self.0.names
    }

    /// These credentials, as if they were watched, but for good: for programs that live shorter than a certificate.
    pub fn fixed(self) -> watch::Receiver<Self> {
        watch::channel(self).1
    }
}

/// Nothing of the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &format_args!("{}", self.0.identity))
            .field("not_after", &format_args!("{}", self.0.not_after))
            .finish_non_exhaustive()
    }
}

/// Reads and checks the files: that the key is private and the certificate's, that the certificate names one identity,
/// and that peers with the same CA file would accept it. An expired certificate loads; it is the peers who refuse it.
pub fn load(files: &CertificateFiles) -> Result<Credentials, Error> {
    let authorities = read_certificates(&files.ca)?;
    let chain = read_certificates(&files.certificate)?;
    let key = read_key(&files.key)?;

    let no_identity = |source| Error::NoIdentity { path: files.certificate.clone(), source };
    let facts = CertificateFacts::read(&chain[0]).map_err(no_identity)?;
    let identity = facts.identity().map_err(no_identity)?;

    let unusable = |source| Error::UnusableCa { path: files.ca.clone(), source };
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(unusable)?;
    }
    let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
    let unbuildable = |error: rustls::server::VerifierBuilderError| unusable(rustls::Error::General(error.to_string()));
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(unbuildable)?;
    let servers =
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().map_err(unbuildable)?;

    would_be_accepted(&chain, &facts, &identity, clients.as_ref(), servers.as_ref())
        .map_err(|source| Error::Refused { certificate: files.certificate.clone(), ca: files.ca.clone(), source })?;

    let clients = Arc::new(ClientOfCluster { cluster: identity.cluster.clone(), usual: clients });
    let names = facts.names.iter().filter(|name| serves(&chain, &facts, name, servers.as_ref())).cloned().collect();
    let servers = |role| {
        Arc::new(ServerOfCluster { cluster: identity.cluster.clone(), role, usual: Arc::clone(&servers) as Arc<_> })
    };
    let (agents, coordinators) = (servers(Role::Agent), servers(Role::Coordinator));
    let no_pair = |source| Error::NoPair { certificate: files.certificate.clone(), key: files.key.clone(), source };
    let client = |servers: &Arc<ServerOfCluster>, protocol: Protocol| {
        let (chain, key) = (chain.clone(), key.clone_key());
        client_config(&provider, Arc::clone(servers), chain, key, protocol).map(Arc::new).map_err(no_pair)
    };
    Ok(Credentials(Arc::new(Loaded {
        grpc_client: client(&agents, Protocol::Grpc)?,
        tunnel_client: client(&agents, Protocol::Tunnel)?,
        agents_client: client(&agents, Protocol::Agents)?,
        coordinator_client: client(&coordinators, Protocol::Grpc)?,
        names,
        server: Arc::new(server_config(&provider, clients, chain, key).map_err(no_pair)?),
        identity,
        not_after: facts.not_after,
    })))
}

/// Sessions are never resumed: a resumed one would skip the certificate, and so outlive its expiry.
fn server_config(
    provider: &Arc<CryptoProvider>,
    clients: Arc<ClientOfCluster>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = Protocol::ALL.iter().map(|protocol| protocol.alpn().to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    servers: Arc<ServerOfCluster>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    protocol: Protocol,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        // "Dangerous" because it takes a verifier of ours; ours does all that the usual one does, and more.
        .dangerous()
        .with_custom_certificate_verifier(servers)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Whether a peer that calls us by this name accepts our certificate, while it is valid.
fn serves(
    chain: &[CertificateDer<'_>],
    facts: &CertificateFacts,
    name: &str,
    servers: &dyn ServerCertVerifier,
) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    servers.verify_server_cert(&chain[0], &chain[1..], &name, &[], valid_moment(facts)).is_ok()
}

/// A time when the certificate is valid, now if it is.
fn valid_moment(facts: &CertificateFacts) -> UnixTime {
    let moment = Timestamp::now().clamp(facts.not_before, facts.not_after.max(facts.not_before)).as_second();
    UnixTime::since_unix_epoch(Duration::from_secs(moment.try_into().unwrap_or_default()))
}

/// Looks at our own certificate with a peer's eyes, at a time when it is valid.
fn would_be_accepted(
    chain: &[CertificateDer<'_>],
    facts: &CertificateFacts,
    identity: &Identity,
    clients: &dyn ClientCertVerifier,
    servers: &WebPkiServerVerifier,
) -> Result<(), rustls::Error> {
    let moment = valid_moment(facts);
    clients.verify_client_cert(&chain[0], &chain[1..], moment)?;
    if identity.role == Role::Agent {
        let name = ServerName::try_from(identity.name.as_str())
            .map_err(|_| rustls::Error::General(format!("{} cannot be a host's name", identity.name)))?;
        servers.verify_server_cert(&chain[0], &chain[1..], &name, &[], moment)?;
    }
    Ok(())
}
