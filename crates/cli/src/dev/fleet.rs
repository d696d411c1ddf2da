//! The simulated meters of a development stack: which they are, and how they come into the services' books.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use simulator::{MeterOptions, Profile};

use crate::args::{Address, Link, MeterAdd, Security};
use crate::client::Session;
use crate::dev::layout::{FIRST_METER, Layout};
use crate::failure::Failure;
use crate::file::{self, Mode};
use crate::meter::{self, lab_keys};
use crate::output::Output;
use crate::sim;

/// `meters.toml`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// The meters, in order.
    meter: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    listen: SocketAddr,
    profile: String,
    /// Starts with its relay open, as after a disconnection for non-payment.
    #[serde(default)]
    disconnected: bool,
}

/// The name of the n-th meter, from 1.
pub(crate) fn name(number: u16) -> String {
    format!("meter-{number:04}")
}

/// Writes the manifest and the key files. What is there stays.
pub(crate) fn make(layout: &Layout, meters: u16) -> Result<(), Failure> {
    if !layout.fleet().exists() {
        let first: SocketAddr = FIRST_METER
            .parse()
            .map_err(|error| Failure::io("place the meters", &error))?;
        let addresses = simulator::fleet_addresses(first, meters.into())
            .map_err(|error| Failure::io("place the meters", &error))?;
        let meter: Vec<_> = (1..)
            .zip(addresses)
            .map(|(number, listen)| entry(number, listen))
            .collect();
        let text = toml::to_string(&Manifest { meter })
            .map_err(|error| Failure::io("write the meters", &error))?;
        file::write(&layout.fleet(), text, Mode::Public)?;
    }
    for entry in read(layout)?.meter {
        sim::make_keys(&layout.lab_keys(&entry.id))?;
    }
    Ok(())
}

/// Both profiles, and a disconnected meter of each, among any six in a row.
fn entry(number: u16, listen: SocketAddr) -> Entry {
    let profile = if number.is_multiple_of(2) {
        Profile::Procedure
    } else {
        Profile::Standard
    };
    Entry {
        id: name(number),
        listen,
        profile: profile.name().to_owned(),
        disconnected: number.is_multiple_of(3),
    }
}

fn read(layout: &Layout) -> Result<Manifest, Failure> {
    let path = layout.fleet();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::file("read", &path, &error).mend("make the stack first: latchkey dev init")
    })?;
    toml::from_str(&text).map_err(|error| {
        Failure::configuration(format!("{} is malformed: {error}", path.display()))
    })
}

/// The meters of a folder that `dev init` made, as the simulator wants them.
pub(crate) fn options(dir: &Path) -> Result<Vec<MeterOptions>, Failure> {
    let layout = Layout::new(dir)?;
    let mut all = Vec::new();
    for entry in read(&layout)?.meter {
        let mut options = MeterOptions::new(entry.listen, lab_keys(&layout.lab_keys(&entry.id))?);
        options.profile = entry
            .profile
            .parse()
            .map_err(|error: simulator::Error| Failure::configuration(error.to_string()))?;
        options.disconnected = entry.disconnected;
        options.state_file = Some(layout.meter_state(&entry.id));
        all.push(options);
    }
    Ok(all)
}

/// Enrols every meter. (The source side of the allowlist is in the auditor's configuration: it is not an installer's
/// to change.)
pub(crate) async fn enrol(
    layout: &Layout,
    session: &Session,
    output: &Output,
) -> Result<usize, Failure> {
    let manifest = read(layout)?;
    for entry in &manifest.meter {
        output.waiting(format!("enrolling {}", entry.id));
        let lab_file = layout.lab_keys(&entry.id);
        let keys = lab_keys(&lab_file)?;
        let args = MeterAdd {
            meter: entry.id.clone(),
            address: Address::Ip(entry.listen),
            lab_keys: lab_file,
            profile: entry.profile.clone(),
            client_sap: 1,
            server_sap: 1,
            invocation_counter: "0.0.43.1.0.255".to_owned(),
            no_release: false,
            rotatable: true,
            security: Security::default(),
            link: Link::default(),
        };
        meter::enrol(&args, &keys, session).await?;
    }
    output.done();
    Ok(manifest.meter.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_has_both_profiles_and_its_own_keys() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        layout
            .folders()
            .iter()
            .for_each(|folder| file::private_folder(folder).unwrap());
        make(&layout, 6).unwrap();
        let meters = options(dir.path()).unwrap();
        assert_eq!(meters.len(), 6);
        assert_eq!(meters[0].listen.to_string(), "127.10.0.1:4059");
        assert_eq!(
            (meters[0].profile, meters[1].profile),
            (Profile::Standard, Profile::Procedure)
        );
        assert_ne!(meters[0].lab_keys.ek(), meters[1].lab_keys.ek());
        for profile in [Profile::Standard, Profile::Procedure] {
            for disconnected in [true, false] {
                assert!(meters.iter().any(|meter| meter.profile == profile && meter.disconnected == disconnected));
            }
        }
        let before = meters[3].lab_keys.ek().to_owned();
        make(&layout, 2).unwrap();
        assert_eq!(options(dir.path()).unwrap()[3].lab_keys.ek(), &before);
    }
}
