//! Answers every DNS query with REFUSED (RFC 1035 section 4.1.1, RCODE 5), so that resolvers give up at once.
//!
//! Limits: the question is repeated only if there is exactly one and it is well-formed, as glibc wants it.

const HEADER: usize = 12;
const REFUSED: u8 = 5;
const RESPONSE: u8 = 0x80;
/// Opcode and "recursion desired" come back as they were asked.
const KEPT: u8 = 0x79;
/// Longest name, bytes (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

/// The answer to a datagram on port 53; `None` if it is no query.
pub fn refuse(query: &[u8]) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    if header[2] & RESPONSE != 0 {
        return None;
    }
    let mut answer = vec![header[0], header[1], RESPONSE | header[2] & KEPT, REFUSED];
    let question = if header[4..6] == [0, 1] { question(&query[HEADER..]) } else { None };
    answer.extend([0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    answer.extend(question.unwrap_or_default());
    Some(answer)
}

/// Name without compression, type and class.
fn question(body: &[u8]) -> Option<&[u8]> {
    let mut end = 0;
    loop {
        match *body.get(end)? {
            0 => break,
            label @ 1..=63 => end += 1 + usize::from(label),
            _ => return None,
        }
        if end >= LONGEST_NAME {
            return None;
        }
    }
    body.get(..end + 5)
}
