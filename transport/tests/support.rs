//! CAs, certificates and a server to call.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use vmferry_core::identity::{Identity, Role};
use vmferry_transport::{AcceptError, Accepted, CertificateFiles, Credentials, accept, load};

/// Longer than anything takes here.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        Self::called("VMFerry CA of test")
    }

    pub(crate) fn called(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a CA"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate of `identity`, as `vmferry pki` would make it, with whatever `change` makes different.
    pub(crate) fn issue(&self, identity: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let name = identity.rsplit('/').next().expect("a name");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a DNS name");
        params.subject_alt_names.push(SanType::URI(identity.try_into().expect("ASCII")));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(3600);
        params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued { ca: self.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Credentials with a plain certificate.
    pub(crate) fn credentials(&self, identity: &str) -> Credentials {
        self.issue(identity, |_| {}).load()
    }
}

/// Certificates and a key, not yet in files.
pub(crate) struct Issued {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Issued {
    pub(crate) fn write(&self, directory: &Path) -> CertificateFiles {
        let files = CertificateFiles::in_directory(directory);
        fs::write(&files.ca, &self.ca).expect("written");
        fs::write(&files.certificate, &self.certificate).expect("written");
        fs::write(&files.key, &self.key).expect("written");
        fs::set_permissions(&files.key, Permissions::from_mode(0o600)).expect("changed");
        files
    }

    pub(crate) fn load(&self) -> Credentials {
        let directory = TempDir::new().expect("a directory");
        load(&self.write(directory.path())).expect("loads")
    }
}

pub(crate) fn expired(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(7200);
    params.not_after = OffsetDateTime::now_utc() - Duration::from_secs(3600);
}

pub(crate) fn identity(role: Role, name: &str) -> Identity {
    Identity { cluster: "test".into(), role, name: name.into() }
}

/// A port on which one connection is accepted.
pub(crate) async fn accept_one(credentials: Credentials) -> (SocketAddr, JoinHandle<Result<Accepted, AcceptError>>) {
    let (listener, address) = listen().await;
    let accepted = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        accept(&credentials, tcp, LIMIT).await
    });
    (address, accepted)
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}
