//! What a container gets of its manifest: command, environment, identity, volumes.

use std::fs;

use oomlet_tests::node::{Node, script, shell};
use oomlet_tests::{on_oldest_and_newest_containerd, pod};
use serde_json::{Value, json};
use xtask::private_containerd::Version;

on_oldest_and_newest_containerd!(containers_get_what_their_manifest_says);

/// Bit 21 of a capability mask.
const CAP_SYS_ADMIN: u64 = 1 << 21;

fn containers_get_what_their_manifest_says(version: Version) {
    let mut node = Node::new("containers", version);
    let host = node.scratch().create_dir("of-the-host").unwrap();
    fs::write(host.join("greeting"), "from the host\n").unwrap();
    node.put(&command_and_identity());
    node.put(&volumes(&node));
    let mut powerful = script("powerful", "grep CapEff /proc/self/status");
    powerful["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
    node.put(&powerful);
    node.start();

    let pod = node.wait_pod("command", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    let said = |container: &str| node.log(&pod, container, 0);
    assert_eq!(said("expanded"), "hello hello-world $(GREETING) $(UNKNOWN)\n");
    assert_eq!(said("shell"), "/tmp\nhello-world\nthe first argument\n");
    let confined = said("confined");
    let lines: Vec<&str> = confined.lines().collect();
    assert_eq!(lines[..3], ["65534", "65533", "read-only"], "{confined}");
    assert_eq!(capabilities(lines[3]), 0, "the bounding set, all dropped: {confined}");
    let kept = capabilities(said("ordinary").trim());
    assert!(kept != 0 && kept & CAP_SYS_ADMIN == 0, "the runtime's usual set: {kept:x}");

    let powerful = node.wait_pod("powerful", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    let all = capabilities(node.log(&powerful, "main", 0).trim());
    assert!(all & CAP_SYS_ADMIN != 0 && all & kept == kept, "privileged: {all:x}, usual: {kept:x}");

    check_volumes(&node);
}

/// `CapEff: 00000000a80425fb`, with a tab.
fn capabilities(line: &str) -> u64 {
    let mask = line.rsplit(char::is_whitespace).next().unwrap();
    u64::from_str_radix(mask, 16).unwrap_or_else(|e| panic!("{line:?}: {e}"))
}

fn command_and_identity() -> Value {
    let mut pod = script("command", "grep CapEff /proc/self/status");
    pod["spec"]["containers"][0]["name"] = json!("ordinary");
    let env = json!([
        { "name": "GREETING", "value": "hello" },
        { "name": "BOTH", "value": "$(GREETING)-world" },
    ]);
    let mut expanded = shell("expanded", "");
    expanded["command"] = json!(["/bin/echo"]);
    expanded["args"] = json!(["$(GREETING)", "$(BOTH)", "$$(GREETING)", "$(UNKNOWN)"]);
    expanded["env"] = env.clone();
    let mut in_shell = shell("shell", "pwd; echo $BOTH; echo \"$1\"");
    in_shell["args"] = json!(["sh", "the first argument"]);
    in_shell["env"] = env;
    in_shell["workingDir"] = json!("/tmp");
    let mut confined = shell(
        "confined",
        "id -u; id -g; touch /new 2>/dev/null || echo read-only; grep CapBnd /proc/self/status",
    );
    confined["securityContext"] = json!({
        "runAsUser": 65534,
        "runAsGroup": 65533,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    pod["spec"]["containers"].as_array_mut().unwrap().extend([expanded, in_shell, confined]);
    pod
}

fn volumes(node: &Node) -> Value {
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
    let with = |mut container: Value, mounts: Vec<Value>| {
        container["volumeMounts"] = json!(mounts);
        container
    };
    let disk = || mount("disk", "/disk");
    let memory = || mount("memory", "/memory");
    let read_only = || json!({ "name": "given", "mountPath": "/given", "readOnly": true });
    let sub = || json!({ "name": "disk", "mountPath": "/sub", "subPath": "deep/down" });
    let writer =
        "echo on-disk > /disk/file; echo in-memory > /memory/file; echo made > /made/file; touch /disk/go";
    let reader = "while [ ! -e /disk/go ]; do sleep 0.05; done
        cat /disk/order /disk/file /memory/file /given/greeting
        touch /given/new 2>/dev/null || echo no-writing
        grep ' /memory ' /proc/mounts | cut -d ' ' -f 3,4
        echo below > /sub/file";
    let mut pod = script("volumes", "");
    pod["spec"]["volumes"] = json!([
        { "name": "disk", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } },
        { "name": "given", "hostPath": { "path": node.scratch().path().join("of-the-host"), "type": "Directory" } },
        {
            "name": "made",
            "hostPath": { "path": node.scratch().path().join("made/here"), "type": "DirectoryOrCreate" },
        },
    ]);
    // The second one starts when the first has ended, however long that takes.
    pod["spec"]["initContainers"] = json!([
        with(shell("first", "sleep 0.3; echo first >> /disk/order"), vec![disk()]),
        with(shell("second", "echo second >> /disk/order; mkdir -p /disk/deep/down"), vec![disk()]),
    ]);
    pod["spec"]["containers"] = json!([
        with(shell("writer", writer), vec![disk(), memory(), mount("made", "/made")]),
        with(shell("reader", reader), vec![disk(), memory(), read_only(), sub()]),
    ]);
    pod
}

fn check_volumes(node: &Node) {
    let pod = node.wait_pod("volumes", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    let said = node.log(&pod, "reader", 0);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..6],
        ["first", "second", "on-disk", "in-memory", "from the host", "no-writing"],
        "{said}"
    );
    assert!(lines[6].starts_with("tmpfs") && lines[6].contains("size=8192k"), "{said}");
    assert_eq!(fs::read_to_string(node.scratch().path().join("made/here/file")).unwrap(), "made\n");
    assert!(!node.scratch().path().join("of-the-host/new").exists());
    for name in ["first", "second"] {
        let init = pod["status"]["initContainerStatuses"].as_array().unwrap();
        let status = init.iter().find(|c| c["name"] == name).unwrap();
        assert_eq!(status["state"]["terminated"]["reason"], "Completed", "{status}");
    }
    let ended = |name: &str| pod::container(&pod, name)["state"]["terminated"]["exitCode"].clone();
    assert_eq!((ended("writer"), ended("reader")), (json!(0), json!(0)));
}
