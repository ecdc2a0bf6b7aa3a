//! DNS over TCP: messages with their length in front (RFC 1035 section 4.2.2).

use lava_event::Protocol;

use super::Talk;
use crate::world::{Context, Ends};

/// Where it is spoken.
pub const PORT: u16 = 53;

/// One connection's.
pub struct Names {
    ends: Ends,
    bytes: Vec<u8>,
}

impl Names {
    pub const fn new(ends: Ends) -> Self {
        Self { ends, bytes: Vec::new() }
    }

    pub fn receive(&mut self, bytes: &[u8], talk: &mut Talk, context: &mut Context<'_, '_>) {
        // A message is at most 64 KiB: so much waits here, and what one read brought.
        self.bytes.extend_from_slice(bytes);
        let mut rest = self.bytes.as_slice();
        while let Some((&length, behind)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(length));
            let Some(query) = behind.get(..length) else { break };
            rest = &behind[length..];
            let Some((reply, _)) = context.name(Protocol::Tcp, self.ends.origin, query, true) else {
                talk.closes = true;
                break;
            };
            let length = u16::try_from(reply.len()).unwrap_or_default();
            talk.say(&[&length.to_be_bytes()[..], &reply].concat(), &mut context.world.budget);
        }
        self.bytes = rest.to_vec();
    }
}
