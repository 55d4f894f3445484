//! HTTP/1.1, as much of it as clients of the API speak.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::access::Connection;
use super::shape::Form;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// None when the client is done.
    pub(super) fn read(connection: &mut Connection) -> io::Result<Option<Self>> {
        let end = loop {
            if let Some(end) = find(&connection.unread, b"\r\n\r\n") {
                break end;
            }
            if connection.unread.len() > MOST_HEAD {
                return Err(io::Error::other("a head without end"));
            }
            if !more(connection)? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&connection.unread[..end]).into_owned();
        connection.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (first.next(), first.next());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()));
        let mut request = Self {
            method: method.unwrap_or_default().to_owned(),
            target: target.unwrap_or_default().to_owned(),
            headers: headers.collect(),
            body: Vec::new(),
        };
        let length = request.header("content-length").unwrap_or("0").parse();
        let length: usize = length.map_err(io::Error::other)?;
        while connection.unread.len() < length {
            if !more(connection)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        request.body = connection.unread.drain(..length).collect();
        Ok(Some(request))
    }
}

/// Counts what goes out.
pub(super) struct Answer<'a> {
    pub(super) connection: &'a mut Connection,
    pub(super) sent: Arc<AtomicU64>,
    pub(super) code: Arc<AtomicU64>,
    /// What form errors have.
    pub(super) errors: Form,
}

impl Answer<'_> {
    pub(super) fn whole(&mut self, code: u16, form: Form, object: &Value) -> io::Result<()> {
        self.bytes(code, "", form.content_type(), &form.object(object))
    }

    /// What went wrong, in a form that the client accepts.
    pub(super) fn failure(&mut self, code: u16, why: impl Into<String>) -> io::Result<()> {
        self.whole(code, self.errors, &failure(code, why))
    }

    /// As what stands before the API itself tells it.
    pub(super) fn text(&mut self, code: u16, headers: &str, text: &str) -> io::Result<()> {
        self.bytes(code, headers, "text/plain; charset=utf-8", text.as_bytes())
    }

    fn bytes(&mut self, code: u16, headers: &str, kind: &str, body: &[u8]) -> io::Result<()> {
        self.code.store(code.into(), Ordering::Relaxed);
        let head = format!(
            "HTTP/1.1 {code} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{headers}\r\n",
            reason(code),
            body.len()
        );
        self.raw(head.as_bytes())?;
        self.raw(body)
    }

    pub(super) fn begin_chunks(&mut self, kind: &str) -> io::Result<()> {
        self.code.store(200, Ordering::Relaxed);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        self.raw(head.as_bytes())
    }

    pub(super) fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
        self.raw(&framed)
    }

    pub(super) fn end_chunks(&mut self) -> io::Result<()> {
        self.raw(b"0\r\n\r\n")
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.write_all(bytes)?;
        self.connection.flush()?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// What went wrong, as the API says it.
pub(super) fn failure(code: u16, message: impl Into<String>) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message.into(),
        "reason": named(code),
        "code": code,
    })
}

fn named(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        410 => "Expired",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        504 => "Timeout",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        201 => "Created",
        _ => named(code),
    }
}

fn more(connection: &mut Connection) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let read = connection.read(&mut buffer)?;
    connection.unread.extend_from_slice(&buffer[..read]);
    Ok(read > 0)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

const MOST_HEAD: usize = 64 * 1024;
