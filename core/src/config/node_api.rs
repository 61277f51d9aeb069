//! The configuration of the node's own API, checked. Core.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Defaults are kubelet's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeApiConfig {
    /// `enableServer`. True.
    pub enabled: bool,
    /// 0.0.0.0, which is every address of the node, IPv6 too.
    pub address: IpAddr,
    /// `None` (0): no read-only port.
    pub read_only_port: Option<u16>,
    /// 10248; `None` (0): no health port.
    pub healthz_port: Option<u16>,
    /// 127.0.0.1.
    pub healthz_bind_address: IpAddr,
    /// `tlsCertFile` and `tlsPrivateKeyFile`.
    pub tls_files: Option<(PathBuf, PathBuf)>,
    /// Go's names; empty: all that this agent's TLS speaks. Of TLS 1.2: those of 1.3 are not chosen among, as in Go.
    pub tls_cipher_suites: Vec<String>,
    /// Only TLS 1.3 is spoken.
    pub tls13_only: bool,
    /// `authentication.x509.clientCAFile`.
    pub client_ca_file: Option<PathBuf>,
    /// `authentication.webhook.enabled`: tokens are told from false ones by TokenReview. True.
    pub token_webhook: bool,
    /// `authentication.webhook.cacheTTL`. 2 min.
    pub token_cache_ttl: Duration,
    /// `authentication.anonymous.enabled`. False.
    pub anonymous: bool,
    pub authorization: Authorization,
    /// `enableDebuggingHandlers`: logs, exec and all else that is more than pods, health and numbers. True.
    pub debugging_handlers: bool,
    /// `enableSystemLogHandler`. True.
    pub system_log_handler: bool,
    /// `enableSystemLogQuery`. False.
    pub system_log_query: bool,
    /// `maxOpenFiles`. 1,000,000, as far as the process may have them.
    pub max_open_files: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    AlwaysAllow,
    /// SubjectAccessReview; how long its answers hold: 5 min, 30 s.
    Webhook {
        authorized_ttl: Duration,
        unauthorized_ttl: Duration,
    },
}

impl Default for Authorization {
    fn default() -> Authorization {
        Authorization::Webhook {
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
        }
    }
}

impl Default for NodeApiConfig {
    fn default() -> NodeApiConfig {
        NodeApiConfig {
            enabled: true,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            read_only_port: None,
            healthz_port: Some(10248),
            healthz_bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tls_files: None,
            tls_cipher_suites: Vec::new(),
            tls13_only: false,
            client_ca_file: None,
            token_webhook: true,
            token_cache_ttl: Duration::from_secs(120),
            anonymous: false,
            authorization: Authorization::default(),
            debugging_handlers: true,
            system_log_handler: true,
            system_log_query: false,
            max_open_files: 1_000_000,
        }
    }
}

/// What this agent's TLS speaks of TLS 1.2, by Go's names.
pub const TLS12_SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Of TLS 1.3: always offered, as by Go.
pub const TLS13_SUITES: &[&str] =
    &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// What kubelet takes besides (Go's crypto/tls, secure and insecure ones) and this agent's TLS has not.
pub const OTHER_SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// Go's older names of the same suites.
#[must_use]
pub fn canonical_suite(name: &str) -> &str {
    match name {
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        name => name,
    }
}
