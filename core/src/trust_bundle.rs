//! ClusterTrustBundles, as pods get them: which of them a volume shows, and the one file that they make
//! (pkg/kubelet/clustertrustbundle/clustertrustbundle_manager.go). Core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ClusterTrustBundleProjection, Pod};
use pem::{EncodeConfig, LineEnding, Pem};

use crate::label::selector::selects;

/// One, as far as it counts here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundle {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub signer_name: Option<String>,
    /// PEM.
    pub trust_bundle: String,
}

/// All of the cluster's, or why they are not known.
pub type TrustBundles = Result<Arc<Vec<TrustBundle>>, String>;

/// A volume of the pod shows some.
#[must_use]
pub fn shows_any(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let mut sources = volumes.flat_map(|v| v.projected.iter().flat_map(|p| p.sources.iter().flatten()));
    sources.any(|s| s.cluster_trust_bundle.is_some())
}

/// What the file of this projection holds: each certificate once, without anything else that stood in a bundle. Their order
/// says nothing; it is the same until one of them changes.
///
/// # Errors
/// None is chosen and the projection is not `optional`; a selector that cannot be.
pub fn anchors(projection: &ClusterTrustBundleProjection, bundles: &TrustBundles) -> Result<Vec<u8>, String> {
    let optional = projection.optional == Some(true);
    let (mut chosen, missing) = if let Some(name) = &projection.name {
        let missing = format!(
            "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
        );
        (bundles.as_ref()?.iter().filter(|b| b.name == *name).collect(), missing)
    } else if let Some(signer) = &projection.signer_name {
        let mut chosen = Vec::new();
        for bundle in bundles.as_ref()?.iter().filter(|b| b.signer_name.as_ref() == Some(signer)) {
            let is_chosen = selects(projection.label_selector.as_ref(), &bundle.labels)
                .map_err(|why| format!("while parsing label selector: {why}"))?;
            chosen.extend(is_chosen.then_some(bundle));
        }
        (chosen, "combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned())
    } else {
        return Err("ClusterTrustBundle projection requires either name or signerName to be set".to_owned());
    };
    if chosen.is_empty() {
        return if optional { Ok(Vec::new()) } else { Err(missing) };
    }
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    let mut certificates = BTreeSet::new();
    for bundle in chosen {
        certificates.extend(blocks(&bundle.trust_bundle).map_err(|why| {
            format!("while normalizing trust anchors: ClusterTrustBundle {:?}: {why}", bundle.name)
        })?);
    }
    Ok(certificates.into_iter().map(certificate_pem).collect::<String>().into_bytes())
}

/// What is in each PEM block.
///
/// # Errors
/// One that cannot be read.
pub fn blocks(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let parsed = pem::parse_many(text).map_err(|e| e.to_string())?;
    Ok(parsed.into_iter().map(Pem::into_contents).collect())
}

/// As Go writes it: 64 characters a line, no headers.
#[must_use]
pub fn certificate_pem(der: Vec<u8>) -> String {
    pem::encode_config(&Pem::new("CERTIFICATE", der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bundle(name: &str, signer: Option<&str>, label: &str, contents: &[&str]) -> TrustBundle {
        let pem = |c: &&str| format!("subject: {c}\n{}", certificate_pem(c.as_bytes().to_vec()));
        TrustBundle {
            name: name.to_owned(),
            labels: [("stage".to_owned(), label.to_owned())].into(),
            signer_name: signer.map(str::to_owned),
            trust_bundle: contents.iter().map(pem).collect(),
        }
    }

    fn shown(projection: serde_json::Value) -> Result<String, String> {
        let bundles = Ok(Arc::new(vec![
            bundle("plain", None, "x", &["b", "a", "b"]),
            bundle("ex:live:1", Some("ex/s"), "live", &["one", "shared"]),
            bundle("ex:live:2", Some("ex/s"), "live", &["shared", "two"]),
            bundle("ex:old", Some("ex/s"), "old", &["old"]),
            bundle("other", Some("ex/other"), "live", &["other"]),
        ]));
        let projection = serde_json::from_value(projection).unwrap();
        let file = String::from_utf8(anchors(&projection, &bundles)?).unwrap();
        let found = blocks(&file).unwrap();
        let text: String = found.iter().cloned().map(certificate_pem).collect();
        assert_eq!(text, file, "nothing but certificates");
        Ok(found.into_iter().map(|c| String::from_utf8(c).unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn bundles_are_chosen_joined_and_cleaned() {
        let by_signer = |selector| json!({"path": "f", "signerName": "ex/s", "labelSelector": selector});
        for (projection, want) in [
            (json!({"path": "f", "name": "plain"}), Ok("a b")),
            (json!({"path": "f", "name": "plain", "optional": true}), Ok("a b")),
            (
                json!({"path": "f", "name": "gone"}),
                Err(
                    "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"gone\" not found",
                ),
            ),
            (json!({"path": "f", "name": "gone", "optional": true}), Ok("")),
            (by_signer(json!({})), Ok("old one shared two")),
            (by_signer(json!({"matchLabels": {"stage": "live"}})), Ok("one shared two")),
            (
                by_signer(json!({"matchLabels": {"stage": "no"}})),
                Err("combination of signerName and labelSelector matched zero ClusterTrustBundles"),
            ),
            (
                by_signer(json!(null)),
                Err("combination of signerName and labelSelector matched zero ClusterTrustBundles"),
            ),
            (json!({"path": "f", "signerName": "ex/none", "optional": true}), Ok("")),
            (
                json!({"path": "f"}),
                Err("ClusterTrustBundle projection requires either name or signerName to be set"),
            ),
        ] {
            let want = want.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(shown(projection.clone()), want, "{projection}");
        }
    }

    #[test]
    fn what_is_not_known_is_told_also_of_an_optional_one() {
        let projection = serde_json::from_value(json!({"path": "f", "name": "x", "optional": true})).unwrap();
        let away: TrustBundles = Err("not read yet".to_owned());
        assert_eq!(anchors(&projection, &away), Err("not read yet".to_owned()));
    }
}
