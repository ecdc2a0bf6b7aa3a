//! HTTP/1.0 and 1.1 (RFC 9112), as a server that has everything.
//!
//! Limits: a head of [`LONGEST_HEAD`] bytes and [`MOST_HEADERS`] headers, what is more is refused with 431; of a body the first
//! [`KEEP`] bytes are kept; no HTTP/2, no CONNECT, no upgrades, no ranges. A guest that never ends its request is ended by the
//! connection's own limits.

use lava_event::{Artifact, GuestText, Kind};

use super::Output;
use crate::content::Answer;
use crate::world::{Context, Ends, Kept};

/// Bytes of a request's head.
const LONGEST_HEAD: usize = 32 << 10;
/// Headers of a request.
const MOST_HEADERS: usize = 100;
/// Bytes of a request's body that are kept.
const KEEP: usize = 8 << 20;
/// Bytes that are told of a path, and of a header.
const LONGEST_PATH: usize = 2048;
const LONGEST_VALUE: usize = 512;
/// Longest line that says how long a chunk is, or trailer, bytes.
const LONGEST_LINE: usize = 4096;
const METHODS: &[&[u8]] = &[
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"PROPFIND",
    b"MKCOL",
    b"MOVE",
    b"COPY",
    b"REPORT",
];

/// Whether first bytes are HTTP; `None` while that is not sure.
pub fn sniff(first: &[u8]) -> Option<bool> {
    let Some(space) = first.iter().position(|byte| *byte == b' ') else {
        return if METHODS.iter().any(|method| method.starts_with(first)) { None } else { Some(false) };
    };
    Some(METHODS.contains(&&first[..space]))
}

/// What a request's head said.
#[derive(Default)]
struct Request {
    method: Vec<u8>,
    host: Vec<u8>,
    path: Vec<u8>,
    user_agent: Option<GuestText>,
    content_type: Option<GuestText>,
    keeps_open: bool,
    expects: bool,
}

/// How much of a body is to come.
enum Length {
    Fixed(u64),
    Chunks(Chunks),
}

/// Where in a chunked body we are (RFC 9112 section 7.1).
enum Chunks {
    /// In the line that says how long the next is.
    Size(Vec<u8>),
    /// In one that has so many bytes left.
    Data(u64),
    /// In the line break behind it.
    Break,
    /// Behind the last, in the trailers.
    Trailer(Vec<u8>),
}

enum State {
    Head(Vec<u8>),
    Body {
        request: Request,
        body: Kept,
        length: Length,
    },
    /// No more is taken.
    Over,
}

/// One connection's.
pub struct Http {
    ends: Ends,
    tls: bool,
    state: State,
}

impl Http {
    pub fn new(ends: Ends, tls: bool) -> Self {
        Self { ends, tls, state: State::Head(Vec::new()) }
    }

    /// True if it says no more once the output is empty.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub fn receive(&mut self, mut bytes: &[u8], output: &mut Output, context: &mut Context<'_, '_>) {
        while !bytes.is_empty() && !self.is_over() {
            bytes = match &mut self.state {
                State::Head(_) => self.head(bytes, output, context),
                State::Body { body, length, .. } => match take(length, body, bytes, context) {
                    Some((rest, done)) => {
                        if done {
                            self.answer(output, context);
                        }
                        rest
                    }
                    None => {
                        self.refuse(400, output, context);
                        &[]
                    }
                },
                State::Over => &[],
            };
        }
    }

    /// Takes bytes of a head; what is left behind it.
    fn head<'a>(&mut self, bytes: &'a [u8], output: &mut Output, context: &mut Context<'_, '_>) -> &'a [u8] {
        let State::Head(head) = &mut self.state else { return bytes };
        let before = head.len();
        let room = (LONGEST_HEAD + 1).saturating_sub(before).min(bytes.len());
        head.extend_from_slice(&bytes[..room]);
        let Some(end) = end_of_head(head, before) else {
            if head.len() > LONGEST_HEAD {
                self.refuse(431, output, context);
                return &[];
            }
            return &[];
        };
        let rest = &bytes[end - before..];
        let parsed = parse(&head[..end], self.ends);
        match parsed {
            Err(status) => self.refuse(status, output, context),
            Ok((request, length)) => {
                if request.expects {
                    output.push(b"HTTP/1.1 100 Continue\r\n\r\n".as_slice());
                }
                let none = matches!(length, Length::Fixed(0));
                self.state = State::Body { request, body: Kept::new(KEEP), length };
                if none {
                    self.answer(output, context);
                }
            }
        }
        rest
    }

    /// The request is whole.
    fn answer(&mut self, output: &mut Output, context: &mut Context<'_, '_>) {
        let State::Body { request, body, .. } = std::mem::replace(&mut self.state, State::Head(Vec::new())) else {
            return;
        };
        let mut answer = context.world.content.answer(&request.host, &request.path);
        if request.method == b"CONNECT" {
            answer = Answer { status: 405, body: Artifact::new(&[]), given: false, ..answer };
        }
        let bodiless = request.method == b"HEAD" || answer.status == 204;
        let head = head_of(answer.status, answer.content_type, answer.body.bytes.len(), request.keeps_open);
        output.push(head.into_bytes());
        if !bodiless {
            output.push(answer.body.bytes.clone());
        }
        if !request.keeps_open {
            self.state = State::Over;
        }
        let response = Some(answer.body).filter(|body| !bodiless && !body.bytes.is_empty());
        let from = if answer.given { "content" } else { "default" };
        self.tell(request, body, true, (answer.status, from, answer.content_type), response, context);
    }

    /// What came is no request that is understood, or too much of one.
    fn refuse(&mut self, status: u16, output: &mut Output, context: &mut Context<'_, '_>) {
        let (request, body) = match std::mem::replace(&mut self.state, State::Over) {
            State::Body { request, body, .. } => (request, body),
            State::Head(head) => (request_line(&head), Kept::new(0)),
            State::Over => return,
        };
        output.push(head_of(status, "text/plain", 0, false).into_bytes());
        self.tell(request, body, false, (status, "default", "text/plain"), None, context);
    }

    /// The connection has ended: an unfinished request is told.
    pub fn end(mut self, context: &mut Context<'_, '_>) {
        let (request, body) = match std::mem::replace(&mut self.state, State::Over) {
            State::Body { request, body, .. } => (request, body),
            State::Head(head) if !head.is_empty() => (request_line(&head), Kept::new(0)),
            _ => return,
        };
        self.tell(request, body, false, (0, "none", ""), None, context);
    }

    fn tell(
        &self,
        request: Request,
        body: Kept,
        whole: bool,
        (status, answer, response_type): (u16, &str, &str),
        response: Option<Artifact>,
        context: &mut Context<'_, '_>,
    ) {
        let sent = body.artifact();
        let host =
            if request.host.is_empty() { self.ends.destination.address.to_string().into() } else { request.host };
        let kind = Kind::NetHttp {
            origin: self.ends.origin,
            destination: self.ends.destination,
            tls: self.tls,
            method: request.method.into(),
            host: host.into(),
            path: cut(&request.path, LONGEST_PATH).into(),
            user_agent: request.user_agent,
            content_type: request.content_type,
            status,
            answer: answer.to_owned(),
            response_type: response_type.to_owned(),
            request_bytes: body.total(),
            request_sha256: sent.as_ref().map(|artifact| artifact.sha256),
            request_complete: whole && body.is_whole(),
            response_bytes: response.as_ref().map_or(0, |artifact| artifact.bytes.len() as u64),
            response_sha256: response.as_ref().map(|artifact| artifact.sha256),
            frame: context.at.frame,
        };
        context.tell(kind, sent.into_iter().chain(response));
    }
}

fn cut(bytes: &[u8], longest: usize) -> Vec<u8> {
    bytes[..bytes.len().min(longest)].to_vec()
}

/// Where the head ends, if it does; `before` bytes were looked at already.
fn end_of_head(head: &[u8], before: usize) -> Option<usize> {
    let from = before.saturating_sub(3);
    let at = (from..head.len()).find(|&at| head[at..].starts_with(b"\r\n\r\n") || head[at..].starts_with(b"\n\n"))?;
    Some(at + if head[at] == b'\r' { 4 } else { 2 })
}

/// What can be told of a head that is not understood.
fn request_line(head: &[u8]) -> Request {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Request { method: cut(method, 32), path: path.to_vec(), ..Request::default() }
}

/// Reads a head, or says with which status it is refused.
fn parse(head: &[u8], ends: Ends) -> Result<(Request, Length), u16> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        _ => return Err(400),
    }
    let header = |name: &str| {
        parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    let has = |name: &str, word: &[u8]| {
        let value = header(name).unwrap_or_default().to_ascii_lowercase();
        value.split(|byte| *byte == b',').any(|part| part.trim_ascii() == word)
    };
    let length = if has("transfer-encoding", b"chunked") {
        Length::Chunks(Chunks::Size(Vec::new()))
    } else {
        let value = header("content-length").map(|value| std::str::from_utf8(value).unwrap_or("?").trim());
        Length::Fixed(value.map_or(Ok(0), str::parse).map_err(|_| 400_u16)?)
    };
    let target = parsed.path.unwrap_or("/").as_bytes();
    let (named, path) = split(target);
    let host = named.or_else(|| header("host")).map(without_port).unwrap_or_default();
    let text = |name| header(name).map(|value| cut(value, LONGEST_VALUE).into());
    let request = Request {
        method: cut(parsed.method.unwrap_or_default().as_bytes(), 32),
        host: if host.is_empty() { ends.destination.address.to_string().into_bytes() } else { cut(host, 255) },
        path: path.to_vec(),
        user_agent: text("user-agent"),
        content_type: text("content-type"),
        keeps_open: if parsed.version == Some(1) {
            !has("connection", b"close")
        } else {
            has("connection", b"keep-alive")
        },
        expects: has("expect", b"100-continue"),
    };
    Ok((request, length))
}

/// Host and path of a target; a proxy is given both (RFC 9112 section 3.2.2).
fn split(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let Some(rest) = [b"http://".as_slice(), b"https://"].iter().find_map(|scheme| target.strip_prefix(*scheme)) else {
        return (None, target);
    };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    (Some(&rest[..end]), if end == rest.len() { b"/" } else { &rest[end..] })
}

fn without_port(host: &[u8]) -> &[u8] {
    let colon = host.iter().rposition(|byte| *byte == b':').filter(|_| !host.ends_with(b"]"));
    &host[..colon.unwrap_or(host.len())]
}

/// Takes what of `bytes` belongs to the body: what is left behind it, and whether that was its end. `None`: it is no body.
fn take<'a>(
    length: &mut Length,
    body: &mut Kept,
    bytes: &'a [u8],
    context: &mut Context<'_, '_>,
) -> Option<(&'a [u8], bool)> {
    let chunks = match length {
        Length::Fixed(left) => {
            let rest = data(left, body, bytes, context);
            return Some((rest, *left == 0));
        }
        Length::Chunks(chunks) => chunks,
    };
    let mut bytes = bytes;
    while !bytes.is_empty() {
        match chunks {
            Chunks::Size(line) => {
                let (rest, whole) = line_of(line, bytes)?;
                bytes = rest;
                if whole {
                    line.extend(b"\r\n");
                    let Ok(httparse::Status::Complete((_, size))) = httparse::parse_chunk_size(line) else {
                        return None;
                    };
                    *chunks = if size == 0 { Chunks::Trailer(Vec::new()) } else { Chunks::Data(size) };
                }
            }
            Chunks::Data(left) => {
                bytes = data(left, body, bytes, context);
                if *left == 0 {
                    *chunks = Chunks::Break;
                }
            }
            Chunks::Break => {
                let mut none = Vec::new();
                let (rest, whole) = line_of(&mut none, bytes)?;
                bytes = rest;
                if !none.is_empty() {
                    return None;
                }
                if whole {
                    *chunks = Chunks::Size(Vec::new());
                }
            }
            Chunks::Trailer(line) => {
                let (rest, whole) = line_of(line, bytes)?;
                bytes = rest;
                if whole && line.is_empty() {
                    return Some((bytes, true));
                }
                if whole {
                    line.clear();
                }
            }
        }
    }
    Some((bytes, false))
}

/// Adds bytes to a line without its end; what is left, and whether it ended. `None`: it is too long.
fn line_of<'a>(line: &mut Vec<u8>, bytes: &'a [u8]) -> Option<(&'a [u8], bool)> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let part = &bytes[..end.unwrap_or(bytes.len())];
    line.extend(part.iter().filter(|byte| **byte != b'\r'));
    (line.len() <= LONGEST_LINE).then(|| (end.map_or(&[][..], |end| &bytes[end + 1..]), end.is_some()))
}

fn data<'a>(left: &mut u64, body: &mut Kept, bytes: &'a [u8], context: &mut Context<'_, '_>) -> &'a [u8] {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    body.add(&bytes[..count], &mut context.world.budget);
    *left -= count as u64;
    &bytes[count..]
}

fn head_of(status: u16, content_type: &str, length: usize, keeps_open: bool) -> String {
    let reason = match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Unknown",
    };
    let connection = if keeps_open { "keep-alive" } else { "close" };
    let about = if status == 204 {
        String::new()
    } else {
        format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n")
    };
    format!("HTTP/1.1 {status} {reason}\r\nServer: nginx\r\n{about}Connection: {connection}\r\n\r\n")
}
