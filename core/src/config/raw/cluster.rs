//! The keys for a node of a cluster and for the runtime's pace. Core.

use k8s_openapi::api::core::v1::Taint;

use super::checks::in_range;
use super::{Raw, Wrong};
use crate::config::Config;
use crate::label;

/// The defaults, and of the keys here what is said.
pub(super) fn checked(raw: &Raw) -> Result<Config, Wrong> {
    let default = Config::default();
    // kubelet takes a zero as not set.
    let given = |time: &Option<crate::duration::GoDuration>| time.map(|d| d.0).filter(|d| !d.is_zero());
    let update = given(&raw.node_status_update_frequency);
    let report = given(&raw.node_status_report_frequency);
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (serialize_image_pulls, max_parallel_image_pulls) = image_pulls(raw)?;
    Ok(Config {
        serialize_image_pulls,
        max_parallel_image_pulls,
        runtime_request_timeout: given(&raw.runtime_request_timeout)
            .unwrap_or(default.runtime_request_timeout),
        fail_swap_on: raw.fail_swap_on,
        fail_cgroup_v1: raw.fail_cgroup_v1,
        node_status_update_frequency: update.unwrap_or(default.node_status_update_frequency),
        // Who sets the first alone wants to see it at work (pkg/kubelet/apis/config/v1beta1/defaults.go).
        node_status_report_frequency: report.or(update).unwrap_or(default.node_status_report_frequency),
        node_status_max_images: max_images(raw.node_status_max_images, default.node_status_max_images)?,
        node_lease_duration_seconds: match raw.node_lease_duration_seconds {
            None | Some(0) => default.node_lease_duration_seconds,
            given => number("nodeLeaseDurationSeconds", given, 0)?,
        },
        register_node: raw.register_node.unwrap_or(default.register_node),
        register_with_taints: taints(raw.register_with_taints.clone().unwrap_or_default())?,
        provider_id: text(&raw.provider_id),
        pod_cidr: text(&raw.pod_cidr),
        port: match raw.port {
            None | Some(0) => default.port,
            Some(port) => {
                let fits = u16::try_from(port);
                in_range("port", port, fits.is_ok(), "1 to 65535")?;
                fits.unwrap_or(default.port)
            }
        },
        kube_api_qps: number("kubeAPIQPS", raw.kube_api_qps, default.kube_api_qps)?,
        kube_api_burst: burst("kubeAPIBurst", raw.kube_api_burst, default.kube_api_burst)?,
        event_record_qps: number("eventRecordQPS", raw.event_record_qps, default.event_record_qps)?,
        event_burst: burst("eventBurst", raw.event_burst, default.event_burst)?,
        rotate_certificates: raw.rotate_certificates.unwrap_or(default.rotate_certificates),
        server_tls_bootstrap: raw.server_tls_bootstrap.unwrap_or(default.server_tls_bootstrap),
        change_detection: raw
            .config_map_and_secret_change_detection_strategy
            .unwrap_or(default.change_detection),
        enable_controller_attach_detach: raw
            .enable_controller_attach_detach
            .unwrap_or(default.enable_controller_attach_detach),
        ..default
    })
}

fn number(key: &str, given: Option<i32>, default: u32) -> Result<u32, Wrong> {
    let Some(given) = given else { return Ok(default) };
    let fits = u32::try_from(given);
    in_range(key, given, fits.is_ok(), "0 or more")?;
    Ok(fits.unwrap_or(default))
}

/// A burst of 0 is one that is not set.
fn burst(key: &str, given: Option<i32>, default: u32) -> Result<u32, Wrong> {
    number(key, given.filter(|burst| *burst != 0), default)
}

/// -1 is no bound.
fn max_images(given: Option<i32>, default: Option<u32>) -> Result<Option<u32>, Wrong> {
    match given {
        None => Ok(default),
        Some(-1) => Ok(None),
        Some(most) => {
            let fits = u32::try_from(most).ok();
            in_range("nodeStatusMaxImages", most, fits.is_some(), "-1 (no bound) or more")?;
            Ok(fits)
        }
    }
}

/// Parallel pulls are off unless they are asked for, which a bound above 1 does.
fn image_pulls(raw: &Raw) -> Result<(bool, Option<u32>), Wrong> {
    let key = "maxParallelImagePulls";
    let most = match raw.max_parallel_image_pulls {
        None => None,
        Some(most) => {
            in_range(key, most, most >= 1, "1 or more")?;
            u32::try_from(most).ok()
        }
    };
    let several = most.is_some_and(|most| most > 1);
    let serialize = raw.serialize_image_pulls.unwrap_or(!several);
    if serialize && several {
        let error = "must be 1 while serializeImagePulls is true".to_owned();
        return Err((key.to_owned(), error));
    }
    Ok((serialize, most))
}

fn taints(given: Vec<Taint>) -> Result<Vec<Taint>, Wrong> {
    for (index, taint) in given.iter().enumerate() {
        let at = |error: String| (format!("registerWithTaints[{index}]"), error);
        label::check_key(&taint.key).map_err(at)?;
        label::check_value(taint.value.as_deref().unwrap_or_default()).map_err(at)?;
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effects.contains(&taint.effect.as_str()) {
            return Err(at(format!("the effect {:?} must be one of {}", taint.effect, effects.join(", "))));
        }
        if taint.time_added.is_some() {
            return Err(at("timeAdded must not be set".to_owned()));
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::{API_VERSION, ChangeDetection, KIND};

    fn parse(body: &str) -> Result<Config, String> {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}");
        match Config::parse(&text, Path::new("k.yaml")) {
            Ok((config, warnings)) => {
                assert_eq!(warnings, [], "{body}");
                Ok(config)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_said_and_what_is_not() {
        let config = parse(
            "
nodeStatusUpdateFrequency: 20s
nodeStatusReportFrequency: 1m
nodeStatusMaxImages: -1
nodeLeaseDurationSeconds: 60
registerNode: false
registerWithTaints: [{key: a/b, value: c, effect: NoSchedule}]
providerID: cloud://x
podCIDR: 10.1.0.0/24
port: 20250
kubeAPIQPS: 0
kubeAPIBurst: 0
eventRecordQPS: 7
eventBurst: 8
rotateCertificates: true
serverTLSBootstrap: true
configMapAndSecretChangeDetectionStrategy: Cache
enableControllerAttachDetach: false
contentType: application/json
runtimeRequestTimeout: 15m
maxParallelImagePulls: 4
failSwapOn: false
failCgroupV1: true
oomlet: {objects: /etc/oomlet/objects}",
        )
        .unwrap();
        let default = Config::default();
        let expected = Config {
            node_status_update_frequency: Duration::from_secs(20),
            node_status_report_frequency: Duration::from_secs(60),
            node_status_max_images: None,
            node_lease_duration_seconds: 60,
            register_node: false,
            register_with_taints: config.register_with_taints.clone(),
            provider_id: Some("cloud://x".to_owned()),
            pod_cidr: Some("10.1.0.0/24".to_owned()),
            port: 20250,
            kube_api_qps: 0,
            kube_api_burst: 100,
            event_record_qps: 7,
            event_burst: 8,
            rotate_certificates: true,
            server_tls_bootstrap: true,
            change_detection: ChangeDetection::Cache,
            enable_controller_attach_detach: false,
            runtime_request_timeout: Duration::from_secs(900),
            serialize_image_pulls: false,
            max_parallel_image_pulls: Some(4),
            fail_swap_on: Some(false),
            fail_cgroup_v1: Some(true),
            oomlet: config.oomlet.clone(),
            ..default
        };
        assert_eq!(config, expected);
        assert_eq!(config.register_with_taints[0].key, "a/b");
        assert_eq!(config.oomlet.objects.as_deref(), Some(Path::new("/etc/oomlet/objects")));
    }

    #[test]
    fn a_status_frequency_alone_is_both() {
        let seconds =
            |c: Config| (c.node_status_update_frequency.as_secs(), c.node_status_report_frequency.as_secs());
        assert_eq!(seconds(parse("").unwrap()), (10, 300));
        assert_eq!(seconds(parse("nodeStatusUpdateFrequency: 30s").unwrap()), (30, 30));
        assert_eq!(seconds(parse("nodeStatusReportFrequency: 30s").unwrap()), (10, 30));
    }

    #[test]
    fn what_is_refused() {
        for (body, key) in [
            ("port: 70000", "port"),
            ("nodeLeaseDurationSeconds: -1", "nodeLeaseDurationSeconds"),
            ("nodeStatusMaxImages: -2", "nodeStatusMaxImages"),
            ("kubeAPIQPS: -1", "kubeAPIQPS"),
            ("eventBurst: -1", "eventBurst"),
            ("maxParallelImagePulls: 0", "maxParallelImagePulls"),
            ("maxParallelImagePulls: 2\nserializeImagePulls: true", "maxParallelImagePulls"),
            ("configMapAndSecretChangeDetectionStrategy: Poll", "configMapAndSecretChangeDetectionStrategy"),
            ("registerWithTaints: [{key: a b, effect: NoSchedule}]", "registerWithTaints[0]"),
            ("registerWithTaints: [{key: a, effect: Never}]", "registerWithTaints[0]"),
            ("registerWithTaints: [{key: a, value: b/c, effect: NoExecute}]", "registerWithTaints[0]"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(&format!(": {key}: ")), "{body}: {error}");
        }
    }
}
