//! Requests to a node's own API as bytes: what goes over the wire is the test's to say, and what comes back is all that does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};

pub type Connection = StreamOwned<ClientConnection, TcpStream>;

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    config: Arc<ClientConfig>,
}

/// How a connection was agreed on, and what the node has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    pub version: ProtocolVersion,
    pub suite: CipherSuite,
    pub certificate: CertificateDer<'static>,
}

impl Caller {
    /// Without a client certificate.
    #[must_use]
    pub fn nobody() -> Caller {
        Caller { config: Arc::new(builder().with_no_client_auth()) }
    }

    /// The same, who speaks this version of TLS alone, with these suites, or with all.
    #[must_use]
    pub fn speaking(version: &'static SupportedProtocolVersion, suites: Option<&[CipherSuite]>) -> Caller {
        let mut provider = ring::default_provider();
        if let Some(suites) = suites {
            provider.cipher_suites.retain(|suite| suites.contains(&suite.suite()));
        }
        Caller { config: Arc::new(builder_of(Arc::new(provider), &[version]).with_no_client_auth()) }
    }

    /// What both have come to.
    pub fn agree(&self, address: SocketAddr) -> io::Result<Agreed> {
        let mut connection = self.connect(address)?;
        let (tls, stream) = (&mut connection.conn, &mut connection.sock);
        while tls.is_handshaking() {
            tls.complete_io(stream)?;
        }
        let certificate = tls.peer_certificates().and_then(|chain| chain.first());
        let none = || io::Error::other("the handshake has no end");
        Ok(Agreed {
            version: tls.protocol_version().ok_or_else(none)?,
            suite: tls.negotiated_cipher_suite().ok_or_else(none)?.suite(),
            certificate: certificate.ok_or_else(none)?.clone().into_owned(),
        })
    }

    /// With the certificate and key of these files, as PEM.
    #[must_use]
    pub fn of(files: &(PathBuf, PathBuf)) -> Caller {
        let certificates = CertificateDer::pem_file_iter(&files.0).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&files.1).unwrap();
        Caller { config: Arc::new(builder().with_client_auth_cert(certificates, key).unwrap()) }
    }

    /// The handshake is done with the first byte.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }

    /// Sends the bytes and reads to the end of the connection.
    pub fn exchange(&self, address: SocketAddr, bytes: &[u8]) -> io::Result<String> {
        let mut connection = self.connect(address)?;
        connection.write_all(bytes)?;
        connection.flush()?;
        let mut answer = Vec::new();
        match connection.read_to_end(&mut answer) {
            // Closed without TLS's goodbye.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Status and body of a request that is the connection's last.
    pub fn request(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &str,
    ) -> io::Result<(u16, String)> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{headers}\r\n");
        let answer = self.exchange(address, head.as_bytes())?;
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
        Ok((status, body))
    }

    pub fn get(&self, address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
        self.request(address, "GET", path, "")
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    builder_of(Arc::new(ring::default_provider()), rustls::DEFAULT_VERSIONS)
}

fn builder_of(
    provider: Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
}

/// A node's certificate may be its own.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate of an authority that nobody knows, with the name and group of one that may do everything.
#[must_use]
pub fn of_a_wrong_authority(dir: &Path) -> (PathBuf, PathBuf) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::CertifiedIssuer::self_signed(params.clone(), key).unwrap();
    params.is_ca = rcgen::IsCa::NoCa;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let files = (dir.join("wrong.crt"), dir.join("wrong.key"));
    std::fs::write(&files.0, certificate.pem()).unwrap();
    std::fs::write(&files.1, key.serialize_pem()).unwrap();
    files
}

/// A server's certificate of its own making, which it is told from others by.
#[must_use]
pub fn of_a_server(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::write(&files.0, made.cert.pem()).unwrap();
    std::fs::write(&files.1, made.signing_key.serialize_pem()).unwrap();
    files
}
