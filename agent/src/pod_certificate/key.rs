//! Private keys of the types that a `podCertificate` may ask for, each with a PKCS#10 request that is empty but for the
//! proof that its sender has the key (`generateKeyAndProof` in podcertificatemanager.go).

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, SignatureAlgorithm,
};
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use rsa::sha2::Sha256;
use x509_cert::builder::{Builder as _, RequestBuilder};
use x509_cert::der::Encode as _;
use x509_cert::name::Name;

/// PKCS#8 in PEM.
pub struct KeyAndProof {
    pub key: String,
    /// DER.
    pub request: Vec<u8>,
}

/// Without the key.
impl std::fmt::Debug for KeyAndProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndProof").finish_non_exhaustive()
    }
}

/// Blocks for as long as it takes to find one: an RSA key of 4096 bits seconds.
///
/// # Errors
/// A type that there is not, in kubelet's words; what else is a defect.
pub fn generate(key_type: &str) -> Result<KeyAndProof, String> {
    match key_type {
        "RSA3072" => rsa_key(3072),
        "RSA4096" => rsa_key(4096),
        "ECDSAP256" => by_ring(&PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => by_ring(&PKCS_ECDSA_P384_SHA384),
        "ECDSAP521" => p521_key(),
        "ED25519" => by_ring(&PKCS_ED25519),
        other => Err(format!("unknown key type {other:?}")),
    }
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("cannot make a key and its request: {error}")
}

fn by_ring(algorithm: &'static SignatureAlgorithm) -> Result<KeyAndProof, String> {
    let key = KeyPair::generate_for(algorithm).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    let request = request.der().to_vec();
    Ok(KeyAndProof { key: key.serialize_pem().replace("\r\n", "\n"), request })
}

/// What ring has no generator for.
fn rsa_key(bits: usize) -> Result<KeyAndProof, String> {
    let mut random = rand_core::UnwrapErr(getrandom::SysRng);
    let key = rsa::PrivateKey::new(&mut random, bits).map_err(failed)?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(failed)?.to_string();
    let signer = rsa::pkcs1v15::SigningKey::<Sha256>::new(key);
    let builder = RequestBuilder::new(Name::default()).map_err(failed)?;
    let request = builder.build::<_, rsa::pkcs1v15::Signature>(&signer).map_err(failed)?;
    Ok(KeyAndProof { key: pem, request: request.to_der().map_err(failed)? })
}

fn p521_key() -> Result<KeyAndProof, String> {
    use p521::elliptic_curve::Generate as _;
    let key = p521::SecretKey::try_generate().map_err(failed)?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(failed)?.to_string();
    let signer = p521::ecdsa::SigningKey::from(&key);
    let builder = RequestBuilder::new(Name::default()).map_err(failed)?;
    let request = builder.build::<_, p521::ecdsa::DerSignature>(&signer).map_err(failed)?;
    Ok(KeyAndProof { key: pem, request: request.to_der().map_err(failed)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer as _;

    /// The API server holds each against its own rules in `tests/cluster`; here: what kind it is.
    #[test]
    fn each_type_has_its_key_and_an_empty_request() {
        for (key_type, algorithm, signature) in [
            ("ECDSAP256", "1.2.840.10045.2.1", "1.2.840.10045.4.3.2"),
            ("ECDSAP384", "1.2.840.10045.2.1", "1.2.840.10045.4.3.3"),
            ("ECDSAP521", "1.2.840.10045.2.1", "1.2.840.10045.4.3.4"),
            ("ED25519", "1.3.101.112", "1.3.101.112"),
            ("RSA3072", "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.11"),
        ] {
            let made = generate(key_type).unwrap();
            assert!(made.key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key_type}");
            assert!(made.key.ends_with("-----END PRIVATE KEY-----\n"), "{key_type}");
            let (rest, request) = X509CertificationRequest::from_der(&made.request).unwrap();
            assert!(rest.is_empty(), "{key_type}");
            let info = &request.certification_request_info;
            assert_eq!(info.subject_pki.algorithm.algorithm.to_id_string(), algorithm, "{key_type}");
            assert_eq!(request.signature_algorithm.algorithm.to_id_string(), signature, "{key_type}");
            assert_eq!(info.subject.iter().count(), 0, "{key_type}");
            assert!(!format!("{made:?}").contains("BEGIN"), "{key_type}");
        }
        assert_eq!(generate("DSA").unwrap_err(), "unknown key type \"DSA\"");
    }
}
