//! `/exec`, `/attach`, `/portForward`: the runtime is asked where it waits for the streams, and the caller is joined to it.

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;

use super::{Routes, Shared, only, query};
use crate::cri::runtime::StreamRequest;
use crate::node_api::find;
use crate::node_api::{answer, proxy};
use oomlet_core::node_api::stream_options;

pub(super) fn routes() -> Routes {
    let routes = Router::new()
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(exec_uid))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(attach_uid))
        .route("/portForward/{namespace}/{pod}", any(port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(port_forward_uid));
    only("GET, POST", routes)
}

type Named = (String, String, String);
type NamedUid = (String, String, String, String);

async fn exec(
    State(api): State<Shared>,
    Path((ns, pod, container)): Path<Named>,
    request: Request,
) -> Response {
    run_in(&api, (&ns, &pod, None, &container), request, true).await
}

async fn exec_uid(
    State(api): State<Shared>,
    Path((ns, pod, uid, container)): Path<NamedUid>,
    request: Request,
) -> Response {
    run_in(&api, (&ns, &pod, Some(&uid), &container), request, true).await
}

async fn attach(
    State(api): State<Shared>,
    Path((ns, pod, container)): Path<Named>,
    request: Request,
) -> Response {
    run_in(&api, (&ns, &pod, None, &container), request, false).await
}

async fn attach_uid(
    State(api): State<Shared>,
    Path((ns, pod, uid, container)): Path<NamedUid>,
    request: Request,
) -> Response {
    run_in(&api, (&ns, &pod, Some(&uid), &container), request, false).await
}

async fn run_in(
    api: &Shared,
    (namespace, name, uid, container): (&str, &str, Option<&str>, &str),
    request: Request,
    is_exec: bool,
) -> Response {
    let query = query(request.uri().query());
    let asked = match stream_options::parse(&query) {
        Ok(asked) => asked,
        Err(why) => return answer::text(StatusCode::BAD_REQUEST, why),
    };
    let pod = match find::pod(api, namespace, name) {
        Ok(pod) => pod,
        Err(response) => return *response,
    };
    let found = match find::running_container(api, &pod, uid, container).await {
        Ok(Some(id)) => id,
        Ok(None) if is_exec => {
            let why = format!("container not found ({container:?})");
            return answer::text(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
        Ok(None) => {
            let why = format!("container {container} not found in pod {name}_{namespace}");
            return answer::text(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
        Err(error) => return answer::of_runtime(&error),
    };
    let mut streams =
        StreamRequest { stdin: asked.stdin, stdout: asked.stdout, stderr: asked.stderr, tty: asked.tty };
    let url = if is_exec {
        let command = query.all("command").map(str::to_owned).collect();
        api.runtime.exec(&found, command, streams).await
    } else {
        // A process has a terminal from its start, or none.
        streams.tty = pod.tty(container);
        streams.stderr &= !streams.tty;
        api.runtime.attach(&found, streams).await
    };
    match url {
        Ok(url) => proxy::upgrade(request, &url).await,
        Err(error) => answer::of_runtime(&error),
    }
}

async fn port_forward(
    State(api): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    forward(&api, (&namespace, &name, None), request).await
}

async fn port_forward_uid(
    State(api): State<Shared>,
    Path((namespace, name, uid)): Path<Named>,
    request: Request,
) -> Response {
    forward(&api, (&namespace, &name, Some(&uid)), request).await
}

async fn forward(
    api: &Shared,
    (namespace, name, uid): (&str, &str, Option<&str>),
    request: Request,
) -> Response {
    let upgrade = request.headers().get("upgrade").and_then(|value| value.to_str().ok());
    let is_websocket = upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
    let ports = match stream_options::ports(&query(request.uri().query()), is_websocket) {
        Ok(ports) => ports,
        Err(why) => return answer::text(StatusCode::BAD_REQUEST, why),
    };
    let pod = match find::pod(api, namespace, name) {
        Ok(pod) => pod,
        Err(response) => return *response,
    };
    if uid.is_some_and(|uid| !pod.has_uid(uid)) {
        return answer::text(StatusCode::NOT_FOUND, "pod not found");
    }
    let sandbox = match find::ready_sandbox(api, &pod).await {
        Ok(Some(id)) => id,
        Ok(None) => {
            let why = format!("pod not found (\"{name}_{namespace}\")");
            return answer::text(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
        Err(error) => return answer::of_runtime(&error),
    };
    match api.runtime.port_forward(&sandbox, ports).await {
        Ok(url) => proxy::upgrade(request, &url).await,
        Err(error) => answer::of_runtime(&error),
    }
}
