//! The certificate authority of one session: it signs for every name that the guest asks for.
//!
//! Its key is made for the session, and leaves the process only with a snapshot of it: the guest of a session that goes on from there
//! trusts this authority and no other. One key serves for all hosts: they are one host.
//!
//! Limits: ECDSA P-256, TLS 1.2 and 1.3; [`CAPACITY`] names are remembered, what comes behind them is signed anew each time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{KeyLog, ServerConnection};

/// Names whose certificates are remembered.
const CAPACITY: usize = 1024;
/// How the authority calls itself.
const NAME: &str = "Network Root CA";

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Making a key or a certificate.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS does not take it.
    #[error("cannot use a certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its key, PKCS#8 as PEM.
    secret: String,
    /// Its own certificate.
    pem: String,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
    signed: BTreeMap<String, Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("signed", &self.signed.len()).finish_non_exhaustive()
    }
}

/// A certificate's time is not what a session is about: it holds before and after.
fn parameters(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(2049, 12, 31);
    Ok(parameters)
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Self, AuthorityError> {
        Self::of(KeyPair::generate()?)
    }

    /// The one that has this key ([`Authority::secret`]): who trusts its certificate trusts what it signs.
    ///
    /// # Errors
    /// It is no key.
    pub fn restored(secret: &str) -> Result<Self, AuthorityError> {
        Self::of(KeyPair::from_pem(secret)?)
    }

    fn of(root: KeyPair) -> Result<Self, AuthorityError> {
        let mut own = parameters(Vec::new())?;
        own.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        own.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        own.distinguished_name.push(DnType::CommonName, NAME);
        let (pem, secret) = (own.self_signed(&root)?.pem(), root.serialize_pem());
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = ring::sign::any_ecdsa_type(&der)?;
        Ok(Self { issuer: Issuer::new(own, root), secret, pem, key, signing, signed: BTreeMap::new() })
    }

    /// The certificate to trust, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key, PKCS#8 as PEM.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Our side of a connection to the host of this name or address; `log` is told its keys.
    ///
    /// # Errors
    /// The name cannot stand in a certificate.
    pub fn serve(&mut self, name: &str, log: Arc<dyn KeyLog>) -> Result<ServerConnection, AuthorityError> {
        let certified = self.certified(name)?;
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.key_log = log;
        // HTTP/2 is not spoken here; who offers HTTP/1.1 beside it takes that.
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ServerConnection::new(Arc::new(config))?)
    }

    fn certified(&mut self, name: &str) -> Result<Arc<CertifiedKey>, AuthorityError> {
        if let Some(known) = self.signed.get(name) {
            return Ok(Arc::clone(known));
        }
        let mut leaf = parameters(vec![name.to_owned()])?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = leaf.signed_by(&self.key, &self.issuer)?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&self.signing)));
        if self.signed.len() < CAPACITY {
            self.signed.insert(name.to_owned(), Arc::clone(&certified));
        }
        Ok(certified)
    }
}

/// Keys of one connection, in the format that Wireshark reads (NSS key log).
#[derive(Debug, Default)]
pub struct Secrets(Mutex<String>);

impl Secrets {
    /// What was told since the last time.
    pub fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
    }
}
