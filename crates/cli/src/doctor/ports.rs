//! Port 4059, TCP and UDP: free, or ours.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Finding;

/// Both transports of the relay's address. TCP may be taken by our own gateway; nothing of ours serves UDP.
pub(crate) fn relay(address: SocketAddr, gateway_is_up: bool) -> [Finding; 2] {
    let tcp = TcpListener::bind(address).map(drop);
    let udp = UdpSocket::bind(address).map(drop);
    [
        finding("TCP", address, tcp, gateway_is_up),
        finding("UDP", address, udp, false),
    ]
}

fn finding(
    transport: &str,
    address: SocketAddr,
    bound: std::io::Result<()>,
    gateway_is_up: bool,
) -> Finding {
    let check = format!("port {transport} {}", address.port());
    let Err(error) = bound else {
        return Finding::good(check, format!("{address} is free"));
    };
    let holder = holder(transport, address);
    let ours = holder
        .as_deref()
        .map_or(gateway_is_up, |name| name.contains("latchkey"));
    if ours {
        return Finding::good(check, format!("{address} is our gateway's"));
    }
    let who = holder.map_or_else(String::new, |name| format!(", taken by {name}"));
    let mend = match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            "give this host the address, or change relay.listen in the gateway's configuration"
        }
        std::io::ErrorKind::PermissionDenied => "let the gateway bind it",
        _ => {
            "stop what holds it (`ss -lntup 'sport = 4059'` names it), or change relay.listen in the gateway's configuration"
        }
    };
    Finding::bad(check, format!("{address}: {error}{who}"), mend)
}

/// Name and process id of who holds a port, as far as this user may see it.
fn holder(transport: &str, address: SocketAddr) -> Option<String> {
    let version = if address.is_ipv6() { "6" } else { "" };
    let table =
        std::fs::read_to_string(format!("/proc/net/{}{version}", transport.to_lowercase())).ok()?;
    let inode = table
        .lines()
        .skip(1)
        .find_map(|line| inode_of(line, address))?;
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|process| {
            let id: u32 = process.file_name().to_str()?.parse().ok()?;
            holds(&process.path(), inode).then(|| {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                format!("{} (process {id})", name.trim())
            })
        })
}

/// The inode in a line of /proc/net/{tcp,udp}, if the line is a socket bound to this address or to all addresses
/// that takes connections (state 0A) or datagrams (07).
fn inode_of(line: &str, address: SocketAddr) -> Option<u64> {
    let mut fields = line.split_whitespace().skip(1);
    let (host, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let here = match address.ip() {
        // The kernel prints the address as it lies in memory.
        IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(_) => host.to_owned(),
    };
    let same_port = u16::from_str_radix(port, 16).ok()? == address.port();
    let same_host = host == here || host.bytes().all(|digit| digit == b'0');
    if !(same_port && same_host && matches!(state, "0A" | "07")) {
        return None;
    }
    fields.nth(5)?.parse().ok()
}

fn holds(process: &Path, inode: u64) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let target = std::fs::metadata(descriptor.path());
        target.is_ok_and(|target| target.ino() == inode && is_socket(&target))
    })
}

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_who_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let us = holder("TCP", address).unwrap();
        assert!(
            us.contains(&format!("process {}", std::process::id())),
            "{us}"
        );
        drop(listener);
        assert_eq!(holder("TCP", address), None);
    }

    #[test]
    fn free_is_good_and_taken_by_a_stranger_is_not() {
        let address: SocketAddr = "127.0.0.1:4059".parse().unwrap();
        assert!(!finding("UDP", address, Ok(()), false).is_bad());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = || Err(std::io::ErrorKind::AddrInUse.into());
        // This test's own process is called latchkey-…: as seen from a port nobody holds, health decides.
        drop(listener);
        assert!(finding("TCP", address, taken(), false).is_bad());
        assert!(!finding("TCP", address, taken(), true).is_bad());
    }
}
