//! TLS to a server: whom to trust, and who we are.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore, SignatureScheme,
};

use crate::error::{Error, ErrorKind};

/// Settings of TLS, for `rediss://`, `rediss+cluster://` and `rediss+sentinel://`: rustls with ring, TLS 1.2 and 1.3. Setters never fail;
/// [`Builder::build`](crate::Builder::build) reads the files, and names every mistake at once.
///
/// Without settings the server's certificate has to be good for the URL's host by the roots of the operating system; that of a
/// server which a cluster or sentinels name, for the host by which they name it.
/// There is no way to switch that off but in code, by the one setter whose name begins with `danger_`, and no way back to an
/// unencrypted connection.
///
/// ```
/// # #[cfg(feature = "tls")] {
/// let cache = larder::CacheClient::builder()
///     .url("rediss://cache.internal:6380")
///     .tls(larder::Tls::new().ca_pem(PEM))
///     .build(); // connects at the first call
/// # }
/// # const PEM: &[u8] = b"";
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Tls {
    roots: Vec<Pem>,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
    anybody: bool,
}

#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Text(Arc<[u8]>),
}

impl Tls {
    /// The defaults: the roots of the operating system, and no certificate of our own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates of a file in PEM, **in place of** the operating system's. May be given more than once.
    /// Defaults to the roots of the operating system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots.push(Pem::File(path.into()));
        self
    }

    /// As [`ca_file`](Self::ca_file), with the text of the file.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.roots.push(Pem::Text(pem.as_ref().into()));
        self
    }

    /// Shows the server a certificate of ours, from files in PEM: the certificate with those that vouch for it, and its
    /// key. Defaults to none.
    pub fn identity_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// As [`identity_files`](Self::identity_files), with the text of the files.
    pub fn identity_pem(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        let text = |pem: &[u8]| Pem::Text(pem.into());
        self.identity = Some((text(certificate.as_ref()), text(key.as_ref())));
        self
    }

    /// The name that the certificate of every server has to be good for, those of nodes and sentinels too. Defaults to the
    /// host at which each is reached.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Takes any certificate, whoever shows it. **Whoever can get between this process and the server reads and changes all that
    /// is sent, the password first.** For a test against a throw-away server; a test can as well trust the certificate
    /// that the server has, by [`ca_file`](Self::ca_file). Defaults to no.
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.anybody = true;
        self
    }

    /// Reads the files. `hosts` are those of the URL.
    pub(crate) fn connector<'h>(
        &self,
        hosts: impl IntoIterator<Item = &'h str>,
    ) -> Result<Connector, Vec<String>> {
        let mut mistakes = Vec::new();
        let name = match &self.server_name {
            Some(name) => {
                let name = ServerName::try_from(name.clone());
                if name.is_err() {
                    mistakes.push(format!("the name that was set is {NO_NAME}"));
                }
                name.ok()
            }
            None => {
                if hosts.into_iter().any(|host| ServerName::try_from(host).is_err()) {
                    mistakes.push(format!("the host is {NO_NAME}"));
                }
                None
            }
        };
        let provider = Arc::new(ring::default_provider());
        let roots = self.roots(&mut mistakes);
        let identity = self.identity.as_ref().and_then(|(certificate, key)| {
            let chain = certificates(certificate, "the client's certificate", &mut mistakes);
            let key = private_key(key, &mut mistakes);
            Some((chain?, key?))
        });
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|_| vec!["the TLS library has no version of TLS in common".to_owned()])?;
        let builder = if self.anybody {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() {
                Ok(verifier) => builder.with_webpki_verifier(verifier),
                Err(_) => {
                    if mistakes.is_empty() {
                        mistakes.push("there is no root certificate to trust".to_owned());
                    }
                    return Err(mistakes);
                }
            }
        };
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => match builder.with_client_auth_cert(chain, key) {
                Ok(config) => config,
                Err(_) => {
                    mistakes.push(
                        "the client's certificate and its key do not belong together".to_owned(),
                    );
                    return Err(mistakes);
                }
            },
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Connector { config: TlsConnector::from(Arc::new(config)), name })
    }

    fn roots(&self, mistakes: &mut Vec<String>) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        if self.roots.is_empty() && !self.anybody {
            let found = rustls_native_certs::load_native_certs();
            // Old systems have some that cannot be read; the others still count.
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                mistakes.push(
                    "the operating system has no root certificates; install ca-certificates, or name \
                     a file of them"
                        .to_owned(),
                );
            }
            return roots;
        }
        for pem in &self.roots {
            for certificate in
                certificates(pem, "the root certificates", mistakes).into_iter().flatten()
            {
                if roots.add(certificate).is_err() {
                    mistakes.push("one of the root certificates is none".to_owned());
                }
            }
        }
        roots
    }
}

fn certificates(
    pem: &Pem,
    what: &str,
    mistakes: &mut Vec<String>,
) -> Option<Vec<CertificateDer<'static>>> {
    let text = text(pem, what, mistakes)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(found),
        _ => {
            mistakes.push(format!("{what}: there is no certificate in PEM in it"));
            None
        }
    }
}

fn private_key(pem: &Pem, mistakes: &mut Vec<String>) -> Option<PrivateKeyDer<'static>> {
    let text = text(pem, "the client's key", mistakes)?;
    let key = PrivateKeyDer::from_pem_slice(&text);
    if key.is_err() {
        mistakes.push("the client's key: there is no unencrypted key in PEM in it".to_owned());
    }
    key.ok()
}

fn text(pem: &Pem, what: &str, mistakes: &mut Vec<String>) -> Option<Arc<[u8]>> {
    match pem {
        Pem::Text(text) => Some(Arc::clone(text)),
        Pem::File(path) => match std::fs::read(path) {
            Ok(text) => Some(text.into()),
            Err(error) => {
                mistakes.push(format!(
                    "{what}: {} cannot be read: {}",
                    path.display(),
                    error.kind()
                ));
                None
            }
        },
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("own_roots", &self.roots.len())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .field("danger_accept_any_certificate", &self.anybody)
            .finish()
    }
}

/// What makes TLS connections, to whichever host.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) config: TlsConnector,
    // The name that was set, so that it is that of every host.
    name: Option<ServerName<'static>>,
}

impl Connector {
    /// What the certificate of a host has to be good for, whoever named that host.
    pub(crate) fn name_of(&self, host: &str) -> crate::error::Result<ServerName<'static>> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        ServerName::try_from(host.to_owned())
            .map_err(|_| Error::new(ErrorKind::Tls, format!("the host is {NO_NAME}")))
    }
}

const NO_NAME: &str = "no name that a certificate can be good for";

/// Takes any certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        Ok(ServerCertVerified::assertion())
    }

    // That the server has the key of the certificate it shows is checked all the same.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
