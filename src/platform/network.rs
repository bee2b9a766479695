//! The addresses of this machine.

use std::net::{IpAddr, UdpSocket};

/// Addresses from which to connect, and addresses of no host, which are reserved for
/// documentation (RFC 5737 and RFC 3849). Connecting a UDP socket sends nothing, but tells which
/// address of this machine packets would leave from.
const ELSEWHERE: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];

/// Returns the addresses from which packets to other machines would leave, the IPv4 address
/// first. There is none without a network, or if the process may not use it.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let own = ELSEWHERE.iter().filter_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    let is_useful = |address: &IpAddr| !address.is_unspecified() && !address.is_loopback();
    own.filter(is_useful).collect()
}
