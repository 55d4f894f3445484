//! Who is let in, and what he may do.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::http::Request;

/// Without tokens and without client certificates everybody is let in; without rights everybody
/// may do everything.
#[derive(Debug, Default)]
pub struct Access {
    pub tokens: Option<BTreeSet<String>>,
    pub rights: Option<Vec<Right>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    pub verb: String,
    /// As "nodes/status".
    pub resource: String,
    /// None: of all names.
    pub name: Option<String>,
}

impl Right {
    pub fn new(verb: &str, resource: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            name: None,
        }
    }

    pub fn of(verb: &str, resource: &str, name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..Self::new(verb, resource)
        }
    }
}

impl Access {
    pub(super) fn knows(&self, request: &Request, certified: bool) -> bool {
        let Some(tokens) = &self.tokens else {
            return true;
        };
        let token = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        certified || token.is_some_and(|token| tokens.contains(token.trim()))
    }

    pub(super) fn allows(&self, verb: &str, resource: &str, name: Option<&str>) -> bool {
        self.rights.as_ref().is_none_or(|rights| {
            rights.iter().any(|right| {
                right.verb == verb
                    && right.resource == resource
                    && (right.name.is_none() || right.name.as_deref() == name)
            })
        })
    }
}

/// How connections are encrypted, and whose certificates count as a way in.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Files in PEM. Whoever shows a certificate that `clients` signed is known.
    pub fn new(certificate: &Path, key: &Path, clients: Option<&Path>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the protocols that ring knows");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(authority) {
                    roots.add(certificate).expect("an authority's certificate");
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .allow_unauthenticated()
                    .build()
                    .expect("a verifier of client certificates");
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_file(key).expect("a key in PEM");
        let config = builder
            .with_single_cert(certificates(certificate), key)
            .expect("a certificate and its key");
        Self {
            config: Arc::new(config),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .unwrap_or_else(|e| panic!("read certificates of {}: {e}", file.display()))
}

/// A connection, encrypted or not, and what is read of it and not used yet.
pub(super) struct Connection {
    stream: Stream,
    pub(super) unread: Vec<u8>,
    /// Its client has shown a certificate that counts.
    pub(super) certified: bool,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

pub(super) fn greet(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Connection> {
    let Some(tls) = tls else {
        return Ok(Connection {
            stream: Stream::Plain(stream),
            unread: Vec::new(),
            certified: false,
        });
    };
    let session = ServerConnection::new(Arc::clone(&tls.config)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Connection {
        certified: stream.conn.peer_certificates().is_some(),
        stream: Stream::Tls(Box::new(stream)),
        unread: Vec::new(),
    })
}

impl Connection {
    /// The client would see a reset: nothing is closed properly.
    pub(super) fn break_off(&self) {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        };
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }

    /// Whether the client has gone away.
    pub(super) fn is_closed(&self) -> bool {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        };
        let mut byte = [0];
        if socket.set_nonblocking(true).is_err() {
            return true;
        }
        let peeked = socket.peek(&mut byte);
        let _ = socket.set_nonblocking(false);
        matches!(peeked, Ok(0))
            || peeked.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
