//! A proxy between an agent and the API server that answers in the server's place what it is told to: errors, a watch that
//! has expired, nothing for a while. It ends TLS with a certificate of its own and goes on as the node.
//!
//! One request a connection: `Connection: close` towards both sides, so that it has to understand no body but its length.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream, StreamOwned,
};
use serde_json::{Value, json};

/// What was asked, as far as faults are chosen by it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub body: String,
    /// The API server has not seen it.
    pub faulted: bool,
}

impl Request {
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.path.contains("watch=true") || self.path.contains("watch=1")
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, with more headers, and the body that the API server has for it.
    Status(u16, &'static str),
    /// The watch begins, and its first event is that it has expired.
    Gone,
    /// Passed on after this.
    Slow(Duration),
    /// The server's own token is said to live for so many seconds.
    TokenLives(u64),
}

type Choose = Box<dyn Fn(&Request) -> Option<Fault> + Send>;

struct State {
    choose: Choose,
    seen: Vec<Request>,
    connections: Vec<TcpStream>,
    ended: bool,
}

pub struct FaultProxy {
    address: SocketAddr,
    kubeconfig: PathBuf,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultProxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// In front of the server of this kubeconfig, as its user. `dir` is for the kubeconfig that leads here.
    #[must_use]
    pub fn start(kubeconfig: &Path, dir: &Path) -> FaultProxy {
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
        let cluster = &mut config["clusters"][0]["cluster"];
        let upstream: SocketAddr =
            cluster["server"].as_str().unwrap().trim_start_matches("https://").parse().unwrap();
        let client = client_config(&pem(&cluster["certificate-authority-data"]), &config["users"][0]["user"]);

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://{address}"));
        cluster["certificate-authority-data"] = json!(STANDARD.encode(own.cert.pem()));
        let path = dir.join("fault-proxy.kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();

        let state =
            State { choose: Box::new(|_| None), seen: Vec::new(), connections: Vec::new(), ended: false };
        let state = Arc::new(Mutex::new(state));
        let via = Arc::new(Via { upstream, client: Arc::new(client), server: Arc::new(server) });
        let shared = Arc::clone(&state);
        thread::spawn(move || accept(&listener, &via, &shared));
        FaultProxy { address, kubeconfig: path, state }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on; what was under way, watches above all, is cut. Requests seen so far are forgotten.
    pub fn set(&self, choose: impl Fn(&Request) -> Option<Fault> + Send + 'static) {
        let mut state = self.state.lock().unwrap();
        state.choose = Box::new(choose);
        state.seen.clear();
        state.cut();
    }

    /// From now on no faults; what is under way goes on.
    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap();
        state.choose = Box::new(|_| None);
        state.seen.clear();
    }

    /// Since the last change.
    #[must_use]
    pub fn seen(&self) -> Vec<Request> {
        self.state.lock().unwrap().seen.clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        state.ended = true;
        state.cut();
        drop(state);
        // What `accept` waits in returns.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // Its peer may have closed it.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

struct Via {
    upstream: SocketAddr,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn pem(data: &Value) -> Vec<u8> {
    STANDARD.decode(data.as_str().expect("a kubeconfig with everything inside")).unwrap()
}

fn client_config(authority: &[u8], user: &Value) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem(&user["client-certificate-data"])).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap()
}

fn accept(listener: &TcpListener, via: &Arc<Via>, state: &Arc<Mutex<State>>) {
    loop {
        let accepted = listener.accept();
        let mut locked = state.lock().unwrap();
        if locked.ended {
            return;
        }
        let Ok((inside, _)) = accepted else { continue };
        locked.connections.extend(inside.try_clone());
        drop(locked);
        let (via, state) = (Arc::clone(via), Arc::clone(state));
        // A connection that breaks is what the test is about, or the agent's own doing.
        thread::spawn(move || drop(serve(inside, &via, &state)));
    }
}

fn serve(mut inside: TcpStream, via: &Via, state: &Mutex<State>) -> io::Result<()> {
    let mut tls = ServerConnection::new(Arc::clone(&via.server)).map_err(io::Error::other)?;
    let mut agent = Stream::new(&mut tls, &mut inside);
    let (head, body) = read_request(&mut agent)?;
    let mut words = head.split_whitespace().map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        body: String::from_utf8_lossy(&body).into_owned(),
        faulted: false,
    };
    let fault = {
        let mut state = state.lock().unwrap();
        let fault = (state.choose)(&request);
        request.faulted = matches!(fault, Some(Fault::Status(..) | Fault::Gone));
        state.seen.push(request);
        fault
    };
    match fault {
        Some(Fault::Status(code, headers)) => agent.write_all(refusal(code, headers).as_bytes())?,
        Some(Fault::Gone) => agent.write_all(gone().as_bytes())?,
        Some(Fault::Slow(by)) => {
            // It is the server that takes its time.
            thread::sleep(by);
            forward(&mut agent, &head, &body, via, state)?;
        }
        Some(Fault::TokenLives(seconds)) => {
            let mut answered = Vec::new();
            // Of HTTP/1.0, so that the answer comes in one piece.
            let head = head.replacen("HTTP/1.1", "HTTP/1.0", 1);
            forward(&mut answered, &head, &body, via, state)?;
            agent.write_all(short_lived(&answered, seconds)?.as_bytes())?;
        }
        None => forward(&mut agent, &head, &body, via, state)?,
    }
    agent.conn.send_close_notify();
    agent.flush()
}

/// The head with its empty line, and the body.
fn read_request(agent: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let mut body = bytes.split_off(end + 4);
            while body.len() < length.unwrap_or(0) {
                match agent.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => body.extend(&buffer[..n]),
                }
            }
            return Ok((head, body));
        }
        match agent.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend(&buffer[..n]),
        }
    }
}

fn forward(
    agent: &mut impl Write,
    head: &str,
    body: &[u8],
    via: &Via,
    state: &Mutex<State>,
) -> io::Result<()> {
    let outside = TcpStream::connect(via.upstream)?;
    state.lock().unwrap().connections.extend(outside.try_clone());
    let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
    let tls = ClientConnection::new(Arc::clone(&via.client), name).map_err(io::Error::other)?;
    let mut server = StreamOwned::new(tls, outside);
    let kept = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut asked: Vec<u8> = kept.flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
    asked.extend(b"Connection: close\r\n\r\n");
    asked.extend(body);
    server.write_all(&asked)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match server.read(&mut buffer)? {
            0 => return Ok(()),
            n => {
                agent.write_all(&buffer[..n])?;
                agent.flush()?;
            }
        }
    }
}

fn short_lived(answered: &[u8], seconds: u64) -> io::Result<String> {
    let text = String::from_utf8_lossy(answered);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let mut token: Value = serde_json::from_str(body).map_err(io::Error::other)?;
    token["spec"]["expirationSeconds"] = json!(seconds);
    token["status"]["expirationTimestamp"] = json!(super::rfc3339(super::unix_s() + seconds));
    Ok(answer("201 Created", "", &token))
}

fn refusal(code: u16, headers: &str) -> String {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("{reason}: the test says so"),
    });
    answer(&format!("{code} {reason}"), headers, &body)
}

fn gone() -> String {
    let event = json!({ "type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version",
    } });
    answer("200 OK", "", &event)
}

fn answer(status: &str, headers: &str, body: &Value) -> String {
    let body = format!("{body}\n");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
