//! One unary gRPC call over a Unix socket, each on a connection of its own.
//!
//! HTTP/2 as far as that needs it: one stream, small messages that no window
//! holds up, and headers sent without compression. Headers received are not
//! decoded: a server sends a message exactly when the call has succeeded.
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::protobuf::Message;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(60);
const STREAM: u32 = 1;

/// Kinds of frames, and the flags that matter.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Calls `method` (`/package.Service/Method`); the bytes of the answer, or
/// nothing if the server refused.
pub(crate) fn call(socket: &Path, method: &str, request: &Message) -> io::Result<Option<Vec<u8>>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(PREFACE)?;
    send(&mut stream, SETTINGS, 0, 0, &[])?;
    send(&mut stream, HEADERS, END_HEADERS, STREAM, &headers(method))?;
    send(
        &mut stream,
        DATA,
        END_STREAM,
        STREAM,
        &framed(request.bytes()),
    )?;
    receive(&mut stream).map(|body| unframed(&body))
}

/// Everything the server sends on the stream until it ends.
fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload)?;
        match kind {
            SETTINGS if flags & ACK == 0 => send(stream, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => send(stream, PING, ACK, 0, &payload)?,
            RESET | GOAWAY => return Err(io::Error::other(format!("refused: {payload:?}"))),
            DATA => body.extend(&payload),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Ok(body);
        }
    }
}

fn send(out: &mut UnixStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    out.write_all(&frame)
}

fn headers(method: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0); // a literal, new name, not to be remembered
        for text in [name, value] {
            let length = u8::try_from(text.len())
                .ok()
                .filter(|length| *length < 0x7f);
            block.push(length.expect("a short header"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A message as gRPC sends it: not compressed, its length, itself.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a small message");
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    frame
}

fn unframed(body: &[u8]) -> Option<Vec<u8>> {
    body.get(5..).map(<[u8]>::to_vec)
}
