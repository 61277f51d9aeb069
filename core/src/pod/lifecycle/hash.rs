//! What a container is marked with when it is made, to tell later whether it is still the one that its pod wants. Core.

use k8s_openapi::api::core::v1::Container;
use sha2::{Digest, Sha256};

/// What makes a running container another one: its name and image, as for kubelet since 1.31 (`HashContainer`,
/// pkg/kubelet/container/helpers.go). Nothing else of a container may change while its pod keeps its UID, and a
/// field that a later agent learns to read must not restart containers. It is kubelet's own value, so that either agent
/// goes on with the containers of the other: FNV-1a over the bytes of the JSON as `DeepHashObject` prints them.
#[must_use]
pub fn container_hash(container: &Container) -> u64 {
    let bytes: Vec<String> = hashed_text(container).bytes().map(|byte| byte.to_string()).collect();
    let printed = format!("([]uint8)[{}]", bytes.join(" "));
    let (basis, prime) = (0x811c_9dc5_u32, 0x0100_0193_u32);
    let hash = printed.bytes().fold(basis, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(prime));
    hash.into()
}

/// Whether a container that runs with this hash is of another name or image by now.
pub(super) fn is_other(container: &Container, hash: u64) -> bool {
    hash != container_hash(container) && hash != first_hash(container)
}

/// What containers were marked with before oomlet took kubelet's value.
pub(super) fn first_hash(container: &Container) -> u64 {
    let digest = Sha256::digest(hashed_text(container).as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

fn hashed_text(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    serde_json::json!({"image": image, "name": container.name}).to_string()
}
