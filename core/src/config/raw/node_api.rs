//! The keys of the node's own API. Core.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::checks::in_range;
use super::{Raw, Wrong};
use crate::config::ConfigWarning;
use crate::config::node_api::{
    Authorization, NodeApiConfig, OTHER_SUITES, TLS12_SUITES, TLS13_SUITES, canonical_suite,
};
use crate::duration::GoDuration;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawAuthentication {
    anonymous: Option<RawEnabled>,
    webhook: Option<RawTokenWebhook>,
    x509: Option<RawX509>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEnabled {
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawTokenWebhook {
    enabled: Option<bool>,
    #[serde(rename = "cacheTTL")]
    cache_ttl: Option<GoDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawX509 {
    #[serde(rename = "clientCAFile")]
    client_ca_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawAuthorization {
    mode: Option<String>,
    webhook: Option<RawAccessWebhook>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAccessWebhook {
    #[serde(rename = "cacheAuthorizedTTL")]
    cache_authorized_ttl: Option<GoDuration>,
    #[serde(rename = "cacheUnauthorizedTTL")]
    cache_unauthorized_ttl: Option<GoDuration>,
}

pub(super) fn checked(raw: &Raw, warnings: &mut Vec<ConfigWarning>) -> Result<NodeApiConfig, Wrong> {
    let default = NodeApiConfig::default();
    let authentication = raw.authentication.as_ref();
    let webhook = authentication.and_then(|a| a.webhook.as_ref());
    let anonymous = authentication.and_then(|a| a.anonymous.as_ref());
    let x509 = authentication.and_then(|a| a.x509.as_ref());
    let read_only_port = port("readOnlyPort", raw.read_only_port, None)?;
    if read_only_port.is_some_and(|port| i32::from(port) == raw.port.filter(|p| *p != 0).unwrap_or(10250)) {
        let error = "must be another port than `port`".to_owned();
        return Err(("readOnlyPort".to_owned(), error));
    }
    Ok(NodeApiConfig {
        enabled: raw.enable_server.unwrap_or(default.enabled),
        address: address("address", raw.address.as_deref(), default.address)?,
        read_only_port,
        healthz_port: port("healthzPort", raw.healthz_port, default.healthz_port)?,
        healthz_bind_address: address(
            "healthzBindAddress",
            raw.healthz_bind_address.as_deref(),
            default.healthz_bind_address,
        )?,
        tls_files: tls_files(raw)?,
        tls_cipher_suites: cipher_suites(raw.tls_cipher_suites.as_deref().unwrap_or_default(), warnings)?,
        tls13_only: tls13_only(raw.tls_min_version.as_deref().unwrap_or_default(), warnings)?,
        client_ca_file: x509
            .and_then(|x| x.client_ca_file.clone())
            .filter(|path| !path.as_os_str().is_empty()),
        token_webhook: webhook.and_then(|w| w.enabled).unwrap_or(default.token_webhook),
        token_cache_ttl: time(webhook.and_then(|w| w.cache_ttl), default.token_cache_ttl),
        anonymous: anonymous.and_then(|a| a.enabled).unwrap_or(default.anonymous),
        authorization: authorization(raw.authorization.as_ref())?,
        debugging_handlers: raw.enable_debugging_handlers.unwrap_or(default.debugging_handlers),
        system_log_handler: raw.enable_system_log_handler.unwrap_or(default.system_log_handler),
        system_log_query: raw.enable_system_log_query.unwrap_or(default.system_log_query),
        max_open_files: match raw.max_open_files {
            None | Some(0) => default.max_open_files,
            Some(files) => {
                let fits = u64::try_from(files);
                in_range("maxOpenFiles", files, fits.is_ok(), "0 or more")?;
                fits.unwrap_or(default.max_open_files)
            }
        },
    })
}

/// kubelet takes a zero as not set.
fn time(given: Option<GoDuration>, default: Duration) -> Duration {
    given.map(|time| time.0).filter(|time| !time.is_zero()).unwrap_or(default)
}

/// 0 is none.
fn port(key: &str, given: Option<i32>, default: Option<u16>) -> Result<Option<u16>, Wrong> {
    let Some(given) = given else { return Ok(default) };
    let fits = u16::try_from(given);
    in_range(key, given, fits.is_ok(), "0 (none) to 65535")?;
    Ok(fits.ok().filter(|port| *port != 0))
}

fn address(key: &str, given: Option<&str>, default: IpAddr) -> Result<IpAddr, Wrong> {
    match given {
        None | Some("") => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| (key.to_owned(), format!("{text:?} must be an IP address of this node")))
        }
    }
}

fn tls_files(raw: &Raw) -> Result<Option<(PathBuf, PathBuf)>, Wrong> {
    let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    match (given(&raw.tls_cert_file), given(&raw.tls_private_key_file)) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(_), None) => Err(("tlsPrivateKeyFile".to_owned(), "must be set with tlsCertFile".to_owned())),
        (None, Some(_)) => Err(("tlsCertFile".to_owned(), "must be set with tlsPrivateKeyFile".to_owned())),
    }
}

fn cipher_suites(given: &[String], warnings: &mut Vec<ConfigWarning>) -> Result<Vec<String>, Wrong> {
    let mut spoken = Vec::new();
    for (index, name) in given.iter().enumerate() {
        let canonical = canonical_suite(name);
        if TLS12_SUITES.contains(&canonical) {
            spoken.push(canonical.to_owned());
        } else if OTHER_SUITES.contains(&canonical) {
            warnings.push(ConfigWarning::CipherSuite { name: name.clone() });
        } else if !TLS13_SUITES.contains(&canonical) {
            let error = format!("{name:?} is no cipher suite, must be one of {}", TLS12_SUITES.join(", "));
            return Err((format!("tlsCipherSuites[{index}]"), error));
        }
    }
    let of_tls12 = given.iter().any(|name| !TLS13_SUITES.contains(&name.as_str()));
    if of_tls12 && spoken.is_empty() {
        let error = format!("none of them is spoken, must have one of {}", TLS12_SUITES.join(", "));
        return Err(("tlsCipherSuites".to_owned(), error));
    }
    Ok(spoken)
}

fn tls13_only(given: &str, warnings: &mut Vec<ConfigWarning>) -> Result<bool, Wrong> {
    match given {
        "" | "VersionTLS12" => Ok(false),
        "VersionTLS13" => Ok(true),
        "VersionTLS10" | "VersionTLS11" => {
            warnings.push(ConfigWarning::TlsVersion { name: given.to_owned() });
            Ok(false)
        }
        other => Err(("tlsMinVersion".to_owned(), format!("{other:?} must be VersionTLS12 or VersionTLS13"))),
    }
}

fn authorization(given: Option<&RawAuthorization>) -> Result<Authorization, Wrong> {
    let webhook = given.and_then(|a| a.webhook.as_ref());
    match given.and_then(|a| a.mode.as_deref()).unwrap_or_default() {
        "AlwaysAllow" => Ok(Authorization::AlwaysAllow),
        "" | "Webhook" => {
            let Authorization::Webhook { authorized_ttl, unauthorized_ttl } = Authorization::default() else {
                return Ok(Authorization::AlwaysAllow);
            };
            Ok(Authorization::Webhook {
                authorized_ttl: time(webhook.and_then(|w| w.cache_authorized_ttl), authorized_ttl),
                unauthorized_ttl: time(webhook.and_then(|w| w.cache_unauthorized_ttl), unauthorized_ttl),
            })
        }
        other => Err(("authorization.mode".to_owned(), format!("{other:?} must be Webhook or AlwaysAllow"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{API_VERSION, Config, KIND};

    fn parse(body: &str) -> Result<(NodeApiConfig, Vec<String>), String> {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}");
        let (config, warnings) =
            Config::parse(&text, Path::new("k.yaml")).map_err(|error| error.to_string())?;
        Ok((config.node_api, warnings.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn what_is_said_and_what_is_not() {
        assert_eq!(parse("").unwrap(), (NodeApiConfig::default(), vec![]));
        let (config, warnings) = parse(
            "
enableServer: false
address: 127.0.0.1
readOnlyPort: 10255
healthzPort: 0
healthzBindAddress: '::1'
tlsCertFile: /c
tlsPrivateKeyFile: /k
tlsCipherSuites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305, TLS_AES_128_GCM_SHA256, TLS_RSA_WITH_AES_128_CBC_SHA]
tlsMinVersion: VersionTLS13
authentication: {anonymous: {enabled: true}, webhook: {enabled: false, cacheTTL: 5s}, x509: {clientCAFile: /ca}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 1s, cacheUnauthorizedTTL: 0s}}
enableDebuggingHandlers: false
enableSystemLogHandler: false
enableSystemLogQuery: true
streamingConnectionIdleTimeout: 4h
maxOpenFiles: 5",
        )
        .unwrap();
        let expected = NodeApiConfig {
            enabled: false,
            address: "127.0.0.1".parse().unwrap(),
            read_only_port: Some(10255),
            healthz_port: None,
            healthz_bind_address: "::1".parse().unwrap(),
            tls_files: Some(("/c".into(), "/k".into())),
            tls_cipher_suites: vec!["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256".to_owned()],
            tls13_only: true,
            client_ca_file: Some("/ca".into()),
            token_webhook: false,
            token_cache_ttl: Duration::from_secs(5),
            anonymous: true,
            authorization: Authorization::Webhook {
                authorized_ttl: Duration::from_secs(1),
                unauthorized_ttl: Duration::from_secs(30),
            },
            debugging_handlers: false,
            system_log_handler: false,
            system_log_query: true,
            max_open_files: 5,
        };
        assert_eq!(config, expected);
        assert!(warnings.len() == 1 && warnings[0].contains("TLS_RSA_WITH_AES_128_CBC_SHA"), "{warnings:?}");
        let (config, warnings) =
            parse("authorization: {mode: AlwaysAllow}\ntlsMinVersion: VersionTLS10").unwrap();
        assert_eq!(config.authorization, Authorization::AlwaysAllow);
        assert!(warnings[0].contains("VersionTLS10"), "{warnings:?}");
    }

    #[test]
    fn what_is_refused() {
        for (body, key) in [
            ("address: here", "address"),
            ("readOnlyPort: 70000", "readOnlyPort"),
            ("readOnlyPort: 10250", "readOnlyPort"),
            ("healthzPort: -1", "healthzPort"),
            ("healthzBindAddress: x", "healthzBindAddress"),
            ("tlsCertFile: /c", "tlsPrivateKeyFile"),
            ("tlsPrivateKeyFile: /k", "tlsCertFile"),
            ("tlsCipherSuites: [TLS_AES_128_GCM_SHA256, TLS_NONE]", "tlsCipherSuites[1]"),
            ("tlsCipherSuites: [TLS_RSA_WITH_AES_128_CBC_SHA]", "tlsCipherSuites"),
            ("tlsMinVersion: '1.2'", "tlsMinVersion"),
            ("authorization: {mode: RBAC}", "authorization.mode"),
            ("maxOpenFiles: -1", "maxOpenFiles"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(&format!(": {key}: ")), "{body}: {error}");
        }
    }
}
