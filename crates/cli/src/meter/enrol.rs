//! Enrolling a meter: its keys, its place in the allowlist, its entry in the directory.

use dlms::Suite;
use latchkey_proto::association::v1 as pb;
use latchkey_proto::audit::v1::AllowlistSide;
use latchkey_proto::custody::v1 as custody;
use simulator::LabKeys;

use crate::allowlist;
use crate::args::{Address, Auth, KeyInfo, Link, MeterAdd, Protection, Security, Transport};
use crate::client::Session;
use crate::failure::Failure;

use super::nothing_came;

/// Keys, allowlist, directory. The keys come first: where laboratory keys are refused, nothing has changed. Each
/// step repeated changes nothing.
pub(crate) async fn enrol(
    args: &MeterAdd,
    keys: &LabKeys,
    session: &Session,
) -> Result<pb::Meter, Failure> {
    let meter_id = &args.meter;
    let entry = directory_entry(args, keys.suite());
    let import = import_request(args, keys)?;
    session
        .keys()?
        .import_lab_keys(import)
        .await
        .map_err(|status| {
            Failure::status(&format!("import laboratory keys for {meter_id}"), &status)
        })?;
    // a serial line is the gateway's own: no packet comes from it
    if let Address::Ip(address) = &args.address {
        let network = host_network(address.ip());
        let reason = format!("meter {meter_id}");
        allowlist::add(session, AllowlistSide::Meter, &network, &reason).await?;
    }
    let response = session
        .meters()?
        .create_meter(pb::CreateMeterRequest { meter: Some(entry) })
        .await
        .map_err(|status| Failure::status(&format!("enrol {meter_id}"), &status))?;
    response.into_inner().meter.ok_or_else(nothing_came)
}

/// The network that holds one host alone.
fn host_network(address: std::net::IpAddr) -> String {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{prefix}")
}

/// Which keys an association of this kind uses.
struct Needs {
    /// Encryption and authentication key.
    global: bool,
    password: bool,
    hls_secret: bool,
    master: bool,
    signing: bool,
    agreement: bool,
}

impl Needs {
    fn of(security: &Security) -> Self {
        let auth = security.auth;
        let key_info = security.key_info;
        Self {
            global: security.protection() != Protection::Plain || auth == Auth::Hls5,
            password: auth == Auth::Low,
            hls_secret: matches!(auth, Auth::Hls3 | Auth::Hls4 | Auth::Hls6),
            master: key_info == Some(KeyInfo::Wrapped),
            // an ephemeral key comes signed
            signing: auth == Auth::Hls7 || security.signed || key_info == Some(KeyInfo::OnePass),
            agreement: matches!(key_info, Some(KeyInfo::OnePass | KeyInfo::Static)),
        }
    }
}

/// Only what the association uses: custody refuses plain APDUs to a meter whose keys it holds.
fn import_request(
    args: &MeterAdd,
    keys: &LabKeys,
) -> Result<custody::ImportLabKeysRequest, Failure> {
    let security = &args.security;
    let mut needs = Needs::of(security);
    if args.rotatable {
        needs.master |= !keys.kek().is_empty();
        needs.signing |=
            suite(security, keys.suite()) != 0 && !keys.server_signing_key().is_empty();
    }
    let take = |needed: bool, name: &str, key: &[u8]| match (needed, key) {
        (false, _) => Ok(Vec::new()),
        (true, []) => Err(missing(args, name)),
        (true, key) => Ok(key.to_vec()),
    };
    Ok(custody::ImportLabKeysRequest {
        meter_id: args.meter.clone(),
        client_system_title: keys.client_system_title().to_vec(),
        server_system_title: keys.server_system_title().to_vec(),
        encryption_key: take(needs.global, "ek", keys.ek())?,
        authentication_key: take(needs.global, "ak", keys.ak())?,
        // a meter may have an empty one
        password: if needs.password {
            keys.password().to_vec()
        } else {
            Vec::new()
        },
        security_suite: suite(security, keys.suite()).into(),
        hls_secret: take(needs.hls_secret, "hls_secret", keys.hls_secret())?,
        key_encryption_key: take(needs.master, "kek", keys.kek())?,
        server_signing_key: take(
            needs.signing,
            "server_signing_private_key",
            &keys.server_signing_key(),
        )?,
        server_agreement_key: take(
            needs.agreement,
            "server_agreement_private_key",
            &keys.server_agreement_key(),
        )?,
        mechanisms: mechanisms(security.auth),
        policies: security
            .policy
            .map(|policy| custody::SecurityPolicy::from(policy).into())
            .into_iter()
            .collect(),
        ..custody::ImportLabKeysRequest::default()
    })
}

/// What the keys are for. No authentication needs no naming.
fn mechanisms(auth: Auth) -> Vec<i32> {
    match auth {
        Auth::None => Vec::new(),
        auth => vec![custody::Mechanism::from(auth).into()],
    }
}

fn missing(args: &MeterAdd, name: &str) -> Failure {
    Failure::usage(format!(
        "{} has no {name}, which an association of this kind needs",
        args.lab_keys.display()
    ))
    .mend("make a key file that has it: latchkey sim keys --out FILE --suite N")
}

/// What was asked for, else the key file's; 0 where nothing is ciphered or signed.
fn suite(security: &Security, of_keys: Suite) -> u8 {
    let plain = security.protection() == Protection::Plain && security.auth != Auth::Hls7;
    security
        .suite
        .unwrap_or(if plain { 0 } else { of_keys.id() })
}

fn directory_entry(args: &MeterAdd, of_keys: Suite) -> pb::Meter {
    let security = &args.security;
    pb::Meter {
        meter_id: args.meter.clone(),
        address: args.address.to_string(),
        client_sap: args.client_sap.into(),
        server_sap: args.server_sap.into(),
        mechanism: custody::Mechanism::from(security.auth).into(),
        protection: custody::Protection::from(security.protection()).into(),
        profile: args.profile.clone(),
        invocation_counter_name: args.invocation_counter.clone(),
        create_time: None,
        transport: pb::Transport::from(args.link.transport).into(),
        security: Some(custody::Security {
            suite: suite(security, of_keys).into(),
            policy: security
                .policy
                .map_or(custody::SecurityPolicy::Unspecified, Into::into)
                .into(),
            signed: security.signed,
            key_info: security
                .key_info
                .map_or(custody::KeyInfo::Unspecified, Into::into)
                .into(),
            algorithm_id: security
                .algorithm_id
                .map_or(custody::AlgorithmId::Unspecified, Into::into)
                .into(),
        }),
        hdlc: hdlc(&args.link),
        link_mtu: args.link.mtu,
        no_release: args.no_release,
        send_certificate: security.send_certificate,
        general_block_transfer: args.link.gbt,
    }
}

/// Options of another transport than HDLC go along: the directory says what is wrong with them.
fn hdlc(link: &Link) -> Option<pb::HdlcOptions> {
    let options = [
        link.hdlc_address_octets,
        link.hdlc_physical_address,
        link.hdlc_max_information,
        link.hdlc_window,
    ];
    let [octets, physical, information, window] = options.map(Option::unwrap_or_default);
    let wanted = link.transport == Transport::Hdlc || options.iter().any(Option::is_some);
    wanted.then_some(pb::HdlcOptions {
        address_octets: octets,
        physical_address: physical,
        max_information: information,
        window,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, Meter};

    /// `meter add m …` as it is typed.
    fn typed(flags: &str) -> MeterAdd {
        let line = format!(
            "latchkey meter add m --address 127.10.0.1:4059 --lab-keys k --profile standard {flags}"
        );
        match Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Meter(Meter::Add(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn keys(suite: Suite) -> LabKeys {
        let mut next = 0_u8;
        LabKeys::generate_for(suite, |octets| {
            for octet in octets {
                next = next.wrapping_add(1);
                *octet = next;
            }
        })
    }

    #[test]
    fn a_meter_gets_only_the_secrets_its_association_uses() {
        let (all, curve) = (keys(Suite::Suite0), keys(Suite::Suite2));
        for (flags, keys, expected) in [
            ("", &all, [16, 16, 0, 0, 0, 0, 0]),
            ("--auth none", &all, [0, 0, 0, 0, 0, 0, 0]),
            ("--auth low", &all, [0, 0, 8, 0, 0, 0, 0]),
            ("--auth low --protection glo", &all, [16, 16, 8, 0, 0, 0, 0]),
            ("--auth hls6", &all, [16, 16, 0, 32, 0, 0, 0]),
            (
                "--auth hls3 --protection plain",
                &all,
                [0, 0, 0, 32, 0, 0, 0],
            ),
            ("--auth hls7", &curve, [32, 32, 0, 0, 0, 96, 0]),
            ("--signed", &curve, [32, 32, 0, 0, 0, 96, 0]),
            (
                "--protection general-ciphering --key-info wrapped",
                &curve,
                [32, 32, 0, 0, 32, 0, 0],
            ),
            (
                "--protection general-ciphering --key-info one-pass",
                &curve,
                [32, 32, 0, 0, 0, 96, 96],
            ),
            (
                "--protection general-ciphering --key-info static",
                &curve,
                [32, 32, 0, 0, 0, 0, 96],
            ),
        ] {
            let request = import_request(&typed(flags), keys).unwrap();
            let named = usize::from(!flags.contains("none"));
            assert_eq!(request.mechanisms.len(), named, "{flags}");
            let found = [
                request.encryption_key,
                request.authentication_key,
                request.password,
                request.hls_secret,
                request.key_encryption_key,
                request.server_signing_key,
                request.server_agreement_key,
            ];
            assert_eq!(found.map(|key| key.len()), expected, "{flags}");
        }
    }

    #[test]
    fn a_key_that_is_not_there_is_missed_before_anything_is_sent() {
        let named = import_request(&typed("--policy auth"), &keys(Suite::Suite0)).unwrap();
        assert_eq!(
            named.policies,
            [i32::from(custody::SecurityPolicy::Authenticated)]
        );
        let failure = import_request(&typed("--auth hls7"), &keys(Suite::Suite0)).unwrap_err();
        assert!(
            failure.to_string().contains("server_signing_private_key"),
            "{failure}"
        );
    }

    #[test]
    fn the_directory_gets_what_was_typed_and_what_goes_with_it() {
        let entry = directory_entry(&typed(""), Suite::Suite0);
        assert_eq!(entry.mechanism(), custody::Mechanism::HlsGmac);
        assert_eq!(entry.protection(), custody::Protection::Glo);
        assert_eq!((entry.hdlc, entry.link_mtu), (None, 0));
        let entry = directory_entry(&typed("--auth hls7"), Suite::Suite1);
        assert_eq!(entry.security.unwrap().suite, 1);
        let entry = directory_entry(&typed("--auth low"), Suite::Suite1);
        assert_eq!(entry.protection(), custody::Protection::Plain);
        assert_eq!(entry.security.unwrap().suite, 0);
        let flags = "--transport hdlc --hdlc-physical-address 17 --hdlc-max-information 256 --mtu 576 --gbt --no-release \
            --protection ded --policy auth --suite 1";
        let entry = directory_entry(&typed(flags), Suite::Suite0);
        assert_eq!(entry.transport(), pb::Transport::Hdlc);
        let hdlc = entry.hdlc.unwrap();
        assert_eq!((hdlc.physical_address, hdlc.max_information), (17, 256));
        assert_eq!(entry.link_mtu, 576);
        assert!(entry.general_block_transfer && entry.no_release);
        let security = entry.security.unwrap();
        assert_eq!(security.suite, 1);
        assert_eq!(security.policy(), custody::SecurityPolicy::Authenticated);
        assert_eq!(entry.protection(), custody::Protection::Ded);
    }

    #[test]
    fn the_allowlist_gets_one_host() {
        assert_eq!(host_network([127, 10, 0, 1].into()), "127.10.0.1/32");
        assert_eq!(host_network("::1".parse().unwrap()), "::1/128");
    }

    #[test]
    fn a_meter_may_be_behind_a_serial_line() {
        assert_eq!(
            "serial:line-1".parse(),
            Ok(Address::Serial("line-1".into()))
        );
        for bad in ["serial:", "line-1", "127.0.0.1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
