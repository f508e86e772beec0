//! Certificates and the key, as files.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::certificate::IdentityError;

/// Where the certificates and the key are, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The CAs that peers' certificates may come from. More than one while a CA is being replaced.
    pub ca: PathBuf,
    /// Our own certificate, followed by intermediates if there are any.
    pub certificate: PathBuf,
    /// Our own key; nobody but its owner may read it.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// The files of a directory as `vmferry pki issue` makes it.
    pub fn in_directory(directory: &Path) -> Self {
        Self { ca: directory.join("ca.pem"), certificate: directory.join("cert.pem"), key: directory.join("key.pem") }
    }
}

/// Why the files cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not there, or not for us.
    #[error("cannot read {}; it must exist and the user who runs this must be allowed to read it", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The key is no secret.
    #[error("key {path} has mode {mode:04o}, so others can read it; run `chmod 600 {path}`", path = .path.display())]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file holds something else than certificates.
    #[error("{} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); put one there", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with its PEM.
        #[source]
        source: pem::Error,
    },
    /// The key's file holds something else. Has no source: that could quote the file.
    #[error("{} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----); put the certificate's key there", .path.display())]
    NoKey {
        /// The key's file.
        path: PathBuf,
    },
    /// The certificate names nobody, or too many.
    #[error("{} does not say whose it is; issue one with `vmferry pki issue`", .path.display())]
    NoIdentity {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IdentityError,
    },
    /// A CA certificate cannot be used.
    #[error("{} is not usable as CA; put the CA's certificate there", .path.display())]
    UnusableCa {
        /// The CA's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// Certificate and key are no pair.
    #[error(
        "{} is not the key of {}; install the two files that were issued together",
        .key.display(), .certificate.display()
    )]
    NoPair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// Peers that trust the same CAs would refuse the certificate.
    #[error(
        "{} would be refused by those who trust {}; install files that were issued together",
        .certificate.display(), .ca.display()
    )]
    Refused {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// The certificates of a PEM file, in its order: at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(pem::Error::NoItemsFound),
        found => found,
    }
    .map_err(|source| Error::NoCertificate { path: path.to_owned(), source })
}

pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&read_private(path)?).map_err(|_| Error::NoKey { path: path.to_owned() })
}

/// Reads a file that nobody but its owner may read, else refuses. It is the permissions of the very file then read that count.
pub fn read_private(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::KeyExposed { path: path.to_owned(), mode });
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}
