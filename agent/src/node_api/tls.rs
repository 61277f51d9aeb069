//! Which TLS the node's API speaks. Whoever shows a client certificate has to hold its key; whether it counts is asked with
//! each request, so that a new authority counts at once.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion, version,
};

use crate::certificate::serving::ServingKey;
use oomlet_core::config::NodeApiConfig;

/// # Errors
/// The suites and versions leave nothing to speak.
pub fn server_config(config: &NodeApiConfig, key: ServingKey) -> Result<ServerConfig, rustls::Error> {
    let mut provider = ring::default_provider();
    if !config.tls_cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| is_chosen(*suite, &config.tls_cipher_suites));
    }
    let signatures = provider.signature_verification_algorithms;
    let versions: &[&SupportedProtocolVersion] =
        if config.tls13_only { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
    let mut server = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(AnyClient { signatures }))
        .with_cert_resolver(Arc::new(key));
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

/// The suites of TLS 1.3 are not chosen among, as in Go.
fn is_chosen(suite: SupportedCipherSuite, chosen: &[String]) -> bool {
    match suite {
        SupportedCipherSuite::Tls13(_) => true,
        SupportedCipherSuite::Tls12(_) => {
            let name = format!("{:?}", suite.suite());
            chosen.contains(&name)
        }
    }
}

/// The provider's algorithms, for whoever verifies what was shown.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Takes every certificate whose key is held.
#[derive(Debug)]
struct AnyClient {
    signatures: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: a client shows the one that it has.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.signatures)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.signatures)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use oomlet_core::config::node_api::{TLS12_SUITES, TLS13_SUITES};

    use super::*;

    #[test]
    fn every_suite_that_the_configuration_knows_is_spoken() {
        let suites = ring::default_provider().cipher_suites;
        let names = suites.iter().map(|suite| format!("{:?}", suite.suite()));
        let mut spoken: Vec<String> = names.map(|name| name.replace("TLS13_", "TLS_")).collect();
        spoken.sort();
        let mut known: Vec<&str> = TLS12_SUITES.iter().chain(TLS13_SUITES).copied().collect();
        known.sort_unstable();
        assert_eq!(spoken, known);
    }
}
