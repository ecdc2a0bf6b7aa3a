//! The DHCP server (RFC 2131, options of RFC 2132) with one address to lease.
//!
//! Limits: RELEASE, DECLINE and INFORM are not answered; options hidden in the `sname` and `file` fields (option
//! overload) are not read; no relays.

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Address};

use crate::lan;

/// Port of the server.
pub const SERVER: u16 = 67;
/// Port of the client.
pub const CLIENT: u16 = 68;

const HOST_NAME: u8 = 12;
const DNS_SERVERS: u8 = 6;
const RENEWAL_TIME: u8 = 58;
const REBINDING_TIME: u8 = 59;
const REQUESTED: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
const MAGIC: u32 = 0x6382_5363;

/// What to tell the client.
#[derive(PartialEq, Eq, Debug)]
pub struct Reply {
    /// The message, for UDP.
    pub message: Vec<u8>,
    /// True if it has to go to everybody: the client asked for that, or has no address.
    pub broadcast: bool,
    /// Set if the guest has its lease now.
    pub lease: Option<Lease>,
}

/// What the client said of itself when it got its address.
#[derive(PartialEq, Eq, Debug)]
pub struct Lease {
    /// Option 12, at most 255 bytes, as sent.
    pub host_name: Option<Vec<u8>>,
}

/// Answers a client's message that came from `mac`. `None`: nothing is to be said.
pub fn answer(message: &[u8], mac: EthernetAddress) -> Option<Reply> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let client = packet.client_hardware_address();
    let plain = message[..3] == [1, 1, 6] && packet.magic_number() == MAGIC && client == mac;
    if !plain || packet.relay_agent_ip() != Ipv4Address::UNSPECIFIED {
        return None;
    }
    let option = |kind| packet.options().find(|option| option.kind == kind).map(|option| option.data.to_vec());
    let address = |kind| option(kind).and_then(|data| <[u8; 4]>::try_from(data).ok()).map(Ipv4Address::from);
    let kind = match DhcpMessageType::from(*option(MESSAGE_TYPE)?.first()?) {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => {
            if address(SERVER_ID).is_some_and(|server| server != lan::GATEWAY) {
                return None; // It took another server's offer (section 3.1, step 4).
            }
            let wanted = address(REQUESTED).unwrap_or_else(|| packet.client_ip());
            if wanted == lan::GUEST { DhcpMessageType::Ack } else { DhcpMessageType::Nak }
        }
        _ => return None,
    };
    let ack = kind == DhcpMessageType::Ack;
    let refused = kind == DhcpMessageType::Nak;
    let flagged = message[10] & 0x80 != 0;
    Some(Reply {
        message: build(&packet, kind, flagged)?,
        broadcast: flagged || refused,
        lease: ack.then(|| Lease { host_name: option(HOST_NAME).filter(|name| !name.is_empty()) }),
    })
}

fn build(asked: &DhcpPacket<&[u8]>, kind: DhcpMessageType, broadcast: bool) -> Option<Vec<u8>> {
    let grants = kind != DhcpMessageType::Nak;
    let unset = Ipv4Address::UNSPECIFIED;
    let dns = lan::GATEWAY.octets();
    let (renew, rebind) = ((lan::LEASE_SECONDS / 2).to_be_bytes(), (lan::LEASE_SECONDS / 8 * 7).to_be_bytes());
    let times = [
        DhcpOption { kind: RENEWAL_TIME, data: &renew },
        DhcpOption { kind: REBINDING_TIME, data: &rebind },
        DhcpOption { kind: DNS_SERVERS, data: &dns },
    ];
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: asked.transaction_id(),
        secs: 0,
        client_hardware_address: asked.client_hardware_address(),
        client_ip: if kind == DhcpMessageType::Ack { asked.client_ip() } else { unset },
        your_ip: if grants { lan::GUEST } else { unset },
        server_ip: unset,
        router: grants.then_some(lan::GATEWAY),
        subnet_mask: grants.then_some(lan::NETMASK),
        relay_agent_ip: unset,
        broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(lan::GATEWAY),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: grants.then_some(lan::LEASE_SECONDS),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if grants { &times } else { &[] },
    };
    // BOOTP clients expect at least 300 bytes (RFC 951); what is not used stays zero.
    let mut bytes = vec![0; reply.buffer_len().max(300)];
    reply.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice())).ok()?;
    Some(bytes)
}
