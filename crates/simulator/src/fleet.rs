//! Many meters in one process: one listener and one task each, the runtime's one timer for all.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use kit::{Shutdown, Tasks};
use tokio::sync::mpsc;

use crate::{Error, Event, MeterOptions, MeterServer};

/// Meters that live and end together.
#[derive(Debug)]
pub struct Fleet {
    meters: Vec<MeterServer>,
}

impl Fleet {
    /// Makes every meter and binds its address.
    ///
    /// # Errors
    /// The first meter that cannot be made; no meter runs then.
    pub async fn bind(options: impl IntoIterator<Item = MeterOptions>) -> Result<Self, Error> {
        let mut meters = Vec::new();
        for meter in options {
            meters.push(MeterServer::bind(meter).await?);
        }
        Ok(Self { meters })
    }

    /// The addresses of the meters, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.meters.iter().map(MeterServer::local_addr).collect()
    }

    /// Runs all meters until `shutdown` fires. Events of all of them go to one channel, which must be read or dropped.
    ///
    /// # Errors
    /// The first error of a meter; the others go on until `shutdown` fires.
    pub async fn run(self, events: mpsc::Sender<Event>, shutdown: Shutdown) -> Result<(), Error> {
        let tasks = Tasks::new(shutdown.clone());
        let failed = Arc::new(Mutex::new(None));
        for meter in self.meters {
            let (events, shutdown, failed) =
                (events.clone(), shutdown.clone(), Arc::clone(&failed));
            tasks.spawn("meter", async move {
                let address = meter.local_addr();
                if let Err(error) = meter.run(events, shutdown).await {
                    tracing::error!(%address, %error, "a meter ended");
                    failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                }
            });
        }
        drop(events);
        tasks.join().await;
        let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        error.map_or(Ok(()), Err)
    }
}

/// `count` addresses from `first` on: 127.10.0.1:4059, 127.10.0.2:4059, ... with the last octet from 1 to 250.
///
/// # Errors
/// [`Error::FleetAddresses`] if `first` is no IPv4 address or the network of its first octet is too small.
pub fn fleet_addresses(first: SocketAddr, count: usize) -> Result<Vec<SocketAddr>, Error> {
    let too_few = Error::FleetAddresses { count, first };
    let IpAddr::V4(ip) = first.ip() else {
        return Err(too_few);
    };
    let network = ip.octets()[0];
    let usable = (u32::from(ip)..u32::MAX)
        .map(Ipv4Addr::from)
        .take_while(|ip| ip.octets()[0] == network)
        .filter(|ip| (1..=250).contains(&ip.octets()[3]));
    let addresses: Vec<SocketAddr> = usable
        .take(count)
        .map(|ip| SocketAddr::new(ip.into(), first.port()))
        .collect();
    if addresses.len() == count {
        Ok(addresses)
    } else {
        Err(too_few)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_on_into_the_next_network() {
        let addresses = fleet_addresses("127.10.0.1:4059".parse().unwrap(), 501).unwrap();
        assert_eq!(addresses.len(), 501);
        assert_eq!(addresses[250], "127.10.1.1:4059".parse().unwrap());
        assert_eq!(addresses[500], "127.10.2.1:4059".parse().unwrap());
    }

    #[test]
    fn a_network_that_is_too_small_is_refused() {
        assert!(fleet_addresses("127.255.255.1:4059".parse().unwrap(), 251).is_err());
        assert!(fleet_addresses("[::1]:4059".parse().unwrap(), 1).is_err());
    }
}
