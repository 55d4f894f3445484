use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::status::testing;

struct Server {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
}

/// A server on a port of the kernel's choice, for as long as the test's runtime lives.
fn server() -> Server {
    let (status, watched) = watch::channel(Arc::new(testing::serving().0));
    let listener = Place::Tcp(ANY_PORT.parse().unwrap()).listen().unwrap();
    let address = listener.address().unwrap();
    tokio::spawn(listener.serve(watched));
    Server { address, status }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, request: &str) -> String {
        talk(self.connect().await, request.as_bytes()).await
    }

    async fn get(&self, target: &str) -> (u16, String) {
        let request = format!("GET {target} HTTP/1.1\r\nHost: node\r\n\r\n");
        parse(&self.ask(&request).await)
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Code and body, of an answer that says how long it is.
fn parse(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head
        .split("\r\n")
        .find_map(|line| line.strip_prefix("Content-Length: "));
    assert_eq!(length.unwrap().parse(), Ok(body.len()), "{answer}");
    let code = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse();
    (code.unwrap(), body.to_owned())
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weft-http-{}-{next}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn socket_in(scratch: &Scratch) -> (Place, PathBuf) {
    let run_dir = scratch.0.join("run");
    (Place::socket_in(&run_dir), run_dir.join(SOCKET))
}

#[tokio::test]
async fn probes_get_flannelds_words() {
    let server = server();
    let told = server.get("/healthz").await;
    assert_eq!(told, (200, "flanneld is running".into()));
    let told = server.get("/readyz").await;
    assert_eq!(told, (200, "flanneld is ready".into()));

    let (starting, _) = testing::starting();
    server.status.send_replace(Arc::new(starting));
    let (code, body) = server.get("/readyz").await;
    assert_eq!(code, 503);
    assert_eq!(
        body,
        "flanneld is not ready yet\nnothing is programmed yet\n"
    );
    let told = server.get("/healthz").await;
    assert_eq!(told, (200, "flanneld is running".into()));
}

#[tokio::test]
async fn status_and_metrics_are_served() {
    let server = server();
    let (code, body) = server.get("/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &status["lease"]["state"]), (200, &"held".into()));
    let (_, text) = server.get("/status?text").await;
    assert!(text.starts_with("weftd 0.1.0 on node-1: ready") && !text.contains('\x1b'));
    let (_, text) = server.get("/status?text&colour").await;
    assert!(text.contains("\x1b[32m"));
    let answer = server.ask("GET /metrics HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(answer.contains("\nweft_ready 1\n"), "{answer}");
}

#[tokio::test]
async fn head_is_answered_like_get_without_the_body() {
    let server = server();
    let get = server.ask("GET /healthz HTTP/1.1\r\n\r\n").await;
    let head = server.ask("HEAD /healthz HTTP/1.1\r\n\r\n").await;
    assert_eq!(get.strip_suffix("flanneld is running"), Some(&head[..]));
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_done_is_told() {
    let server = server();
    let (code, body) = server.get("/nothing").await;
    assert!(code == 404 && body.contains("/metrics"));
    let answer = server
        .ask("POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nAllow: GET, HEAD\r\n"));
}

#[tokio::test]
async fn a_head_too_large_is_refused_and_the_refusal_arrives() {
    let server = server();
    let cookie = "x".repeat(100_000);
    let request = format!("GET /healthz HTTP/1.1\r\nCookie: {cookie}\r\n\r\n");
    let answer = server.ask(&request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn of_pipelined_requests_the_first_is_answered_whatever_follows() {
    let server = server();
    let mut request = b"GET /healthz HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n".to_vec();
    request.extend((0..20_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]));
    let answer = talk(server.connect().await, &request).await;
    assert_eq!(parse(&answer), (200, "flanneld is running".into()));
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let server = server();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\r\n\r\n"[..],
        b"\0\0\0\0\n\n",
        b"GET\r\n\r\n",
    ] {
        let answer = talk(server.connect().await, garbage).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
    }
    drop(server.connect().await);
    let mut half = server.connect().await;
    half.write_all(b"GET /hea").await.unwrap();
    drop(half);
    assert_eq!(server.get("/healthz").await.0, 200);
}

/// The clock stands still but for waiting: four seconds pass as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_time_is_sent_away() {
    let server = server();
    let began = tokio::time::Instant::now();
    let answer = server.ask("GET /healthz HTTP/1.1\r\nX: ").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(began.elapsed() <= Duration::from_secs(6));
}

#[tokio::test]
async fn slow_clients_without_end_keep_nobody_out() {
    let server = server();
    let mut slow = Vec::new();
    for _ in 0..3 * MOST_CONNECTIONS {
        let mut stream = server.connect().await;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nX: ")
            .await
            .unwrap();
        slow.push(stream);
    }
    assert_eq!(server.get("/healthz").await.0, 200);
    // The oldest have given way.
    let mut rest = Vec::new();
    slow[0].read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn the_socket_answers_as_the_address_does() {
    let scratch = Scratch::new();
    let (place, path) = socket_in(&scratch);
    let (_status, watched) = watch::channel(Arc::new(testing::serving().0));
    tokio::spawn(place.listen().unwrap().serve(watched));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = UnixStream::connect(&path).await.unwrap();
    let answer = talk(stream, b"GET /readyz HTTP/1.1\r\n\r\n").await;
    assert_eq!(parse(&answer), (200, "flanneld is ready".into()));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_socket_that_a_killed_daemon_left_is_replaced() {
    let scratch = Scratch::new();
    let (place, path) = socket_in(&scratch);
    drop(place.listen().unwrap());
    assert!(path.exists(), "a killed daemon leaves its socket");
    place.listen().unwrap();
}

#[tokio::test]
async fn the_socket_of_a_living_daemon_is_left_to_it() {
    let scratch = Scratch::new();
    let (place, _) = socket_in(&scratch);
    let _living = place.listen().unwrap();
    let told = place.listen().unwrap_err().to_string();
    assert!(
        told.contains("another weftd serves there; run one weftd a node"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let scratch = Scratch::new();
    let (place, path) = socket_in(&scratch);
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "dear diary").unwrap();
    let told = place.listen().unwrap_err().to_string();
    assert!(told.contains("no socket is there; move it away"), "{told}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_told_so() {
    let scratch = Scratch::new();
    let place = Place::socket_in(&scratch.0.join("long".repeat(30)));
    let told = place.listen().unwrap_err().to_string();
    assert!(
        told.contains("give a shorter path, with -run-dir"),
        "{told}"
    );
}

#[tokio::test]
async fn an_address_of_another_node_is_told_so() {
    let place = Place::Tcp("192.0.2.1:18471".parse().unwrap());
    let told = place.listen().unwrap_err().to_string();
    assert!(
        told.contains("192.0.2.1:18471") && told.contains("-healthz-ip"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_told_once_and_served_when_it_is_free() {
    let taken = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let address = taken.local_addr().unwrap();
    let (_status, watched) = watch::channel(Arc::new(testing::serving().0));
    let (tell, mut told) = mpsc::unbounded_channel();
    tokio::spawn(serve(Place::Tcp(address), watched, move |error| {
        tell.send(error.to_string()).unwrap();
    }));
    let first = told.recv().await.unwrap();
    assert!(
        first.contains("`ss -ltnp` shows who listens there"),
        "{first}"
    );
    // Many attempts later it has not been told again.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(told.try_recv().is_err());
    drop(taken);
    tokio::time::sleep(2 * LONGEST_PAUSE).await;
    tokio::time::resume();
    let stream = TcpStream::connect(address).await.unwrap();
    let answer = talk(stream, b"GET /healthz HTTP/1.1\r\n\r\n").await;
    assert_eq!(parse(&answer).0, 200);
}

const ANY_PORT: &str = "127.0.0.1:0";
