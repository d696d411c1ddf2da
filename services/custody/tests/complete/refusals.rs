//! What is refused: downgrades, challenges in disguise, associations that the enrolment does not know.

use dlms::{
    Data, KeyChoice, Mechanism, Protection, SecurityControl, Suite,
    security::{GeneralHeader, GeneralSigning},
};
use kit::Tasks;
use latchkey_proto::custody::v1::{GetClientKeysResponse, Mechanism as PbMechanism};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};

use crate::{
    House,
    forms::commands,
    support::{CLIENT, SERVER, method, reason},
    talk::{How, Meter, Talk, client, how, server},
};

const OBJECT: &str = "0.0.96.1.0.255";

/// Whatever was agreed, an answer that is protected otherwise is not taken.
pub(crate) async fn answers_are_as_agreed(house: &House) {
    let meter = Meter::new(house, "agreed", Suite::Suite1)
        .enrolled(house)
        .await;
    let of = |protection, authenticated, encrypted, signed| How {
        authenticated,
        encrypted,
        signed,
        ..how(Mechanism::HlsGmac, protection)
    };
    let general = Protection::GeneralCiphering;
    let all = [
        of(Protection::Glo, true, true, false),
        of(Protection::GeneralGlo, true, true, false),
        of(Protection::Ded, true, true, false),
        of(Protection::Glo, true, false, false),
        of(Protection::Glo, false, true, false),
        of(Protection::Glo, true, true, true),
        of(general(KeyChoice::Identified), true, true, false),
        of(general(KeyChoice::Wrapped), true, true, false),
        of(general(KeyChoice::OnePass), true, true, false),
        of(general(KeyChoice::Static), true, true, false),
        of(general(KeyChoice::Static), true, true, true),
    ];
    let same = |a: How, b: How| {
        a.protection.is_as_good_as(b.protection)
            && (a.authenticated, a.encrypted, a.signed) == (b.authenticated, b.encrypted, b.signed)
    };
    let mut meter = meter;
    for agreed in all {
        let mut talk = Talk::established(house, meter, agreed, commands()).await;
        for sent in all {
            if sent.protection.is_dedicated() && !agreed.protection.is_dedicated() {
                continue;
            }
            let read = talk.association.get_apdu(1, OBJECT, 2);
            talk.send(read).await.unwrap();
            let value = talk.association.value(Data::Boolean(true));
            let apdu = talk.meter_sends_as(&value, sent);
            let taken = talk.association.unprotect(apdu).await;
            match same(sent, agreed) {
                true => assert_eq!(taken.unwrap(), value),
                false => assert_eq!(reason(taken), "RESPONSE_REFUSED", "{sent:?} for {agreed:?}"),
            }
        }
        let read = talk.association.get_apdu(1, OBJECT, 2);
        talk.send(read).await.unwrap();
        let clear = talk.association.value(Data::Boolean(true));
        assert_eq!(
            reason(talk.association.unprotect(clear).await),
            "RESPONSE_REFUSED"
        );
        meter = talk.meter;
    }
}

pub(crate) async fn challenges_are_not_requests(house: &House) {
    let reconnect = |talk: &mut Talk| {
        talk.association
            .action_apdu(method(70, "0.0.96.3.10.255", 2), Some(Data::Integer(0)))
    };
    // A tag over it would be that of an authenticated-only APDU, in every suite and whatever this association does.
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        let id = format!("disguise-{}", suite.id());
        let meter = Meter::new(house, &id, suite).enrolled(house).await;
        for encrypted in [true, false] {
            let how = How {
                encrypted,
                ..how(Mechanism::HlsGmac, Protection::Glo)
            };
            let mut talk = Talk::open(house, meter.clone(), how, commands())
                .await
                .unwrap();
            talk.initiate().await.unwrap();
            let bare = reconnect(&mut talk);
            let header = GeneralHeader::between(client(), server(), 5).octets();
            let general = [header, bare.clone()].concat();
            for challenge in [bare, general] {
                let refused = talk.association.answer(&challenge, SERVER).await;
                assert_eq!(reason(refused), "CHALLENGE_AMBIGUOUS");
            }
            // The context goes on: the meter may send another.
            let token = talk.association.answer(&[3; 32], SERVER).await.unwrap();
            assert_eq!(token[0], SecurityControl::of(suite, true, false).octet());
        }
    }
}

/// What the head-end's key signs for one purpose is nothing that it signs for another.
pub(crate) async fn signatures_are_for_one_purpose(house: &House) {
    let meter = Meter::new(house, "signer", Suite::Suite1)
        .enrolled(house)
        .await;
    let ecdsa = how(Mechanism::HlsEcdsa, Protection::Glo);
    let mut talk = Talk::open(house, meter.clone(), ecdsa, commands())
        .await
        .unwrap();
    talk.initiate().await.unwrap();
    let own = talk.association.challenge.clone();
    assert_eq!(own.len(), 64);
    for (challenge, expected) in [
        (&own[..], "CHALLENGE_REFUSED"),
        (&[7; 31], "CHALLENGE_REFUSED"),
    ] {
        let refused = talk.association.answer(challenge, SERVER).await;
        assert_eq!(reason(refused), expected);
    }
    // A signature of HLS is none of general-signing, and the reverse.
    let token = talk.association.answer(&[7; 64], SERVER).await.unwrap();
    let message = [&CLIENT[..], &SERVER, &[7; 64], &own].concat();
    let public = softcipher::PublicKey::from_octets(&house.client_keys[0].signing_key).unwrap();
    assert!(
        public.verify(&message, &token),
        "it is over titles and challenges"
    );
    let signed = How {
        signed: true,
        ..ecdsa
    };
    let mut talk = Talk::established(house, meter, signed, commands()).await;
    let read = talk.association.get_apdu(1, OBJECT, 2);
    let (apdu, _) = talk.association.protect(read).await.unwrap();
    let input = GeneralSigning::decode(&apdu).unwrap().signing_input();
    assert_eq!(
        (input[0], CLIENT[0]),
        (8, b'M'),
        "their first octets never are the same"
    );

    // A title that could be a length.
    let mut odd = Meter::new(house, "odd-title", Suite::Suite1);
    odd.request.client_system_title = vec![8; 8];
    let odd = odd.enrolled(house).await;
    let refused = Talk::open(house, odd, ecdsa, vec![]).await;
    assert_eq!(reason(refused.map(|_| ())), "ASSOCIATION_REFUSED");
}

pub(crate) async fn the_enrolment_says_how(house: &House) {
    let open = async |meter: &Meter, mechanism, protection| {
        let how = how(mechanism, protection);
        let opened = Talk::open(house, meter.clone(), how, vec![]).await;
        opened
            .map(|_| ())
            .map_err(|status| kit::status::reason(&status).unwrap())
    };
    let refused = Err("ASSOCIATION_REFUSED".to_owned());
    let mut named = Meter::new(house, "named", Suite::Suite1);
    named.request.mechanisms = vec![PbMechanism::HlsEcdsa.into()];
    let named = named.enrolled(house).await;
    assert_eq!(
        open(&named, Mechanism::HlsEcdsa, Protection::Glo).await,
        Ok(())
    );
    for mechanism in [Mechanism::Low, Mechanism::HlsGmac, Mechanism::HlsSha256] {
        assert_eq!(
            open(&named, mechanism, Protection::Glo).await,
            refused,
            "{mechanism:?}"
        );
    }
    let mut unnamed = Meter::new(house, "unnamed", Suite::Suite0);
    unnamed.request.mechanisms.clear();
    let unnamed = unnamed.enrolled(house).await;
    assert_eq!(
        open(&unnamed, Mechanism::Low, Protection::Glo).await,
        refused,
        "a password beside keys"
    );
    assert_eq!(
        open(&unnamed, Mechanism::HlsGmac, Protection::Glo).await,
        Ok(())
    );
    assert_eq!(
        open(&unnamed, Mechanism::HlsSha256, Protection::Plain).await,
        refused,
        "in clear"
    );
    assert_eq!(
        open(&unnamed, Mechanism::None, Protection::Plain).await,
        Ok(()),
        "the public client"
    );
    let bare = Meter::new(house, "bare", Suite::Suite0)
        .bare()
        .enrolled(house)
        .await;
    assert_eq!(
        open(&bare, Mechanism::HlsGmac, Protection::Glo).await,
        refused
    );
    assert_eq!(open(&bare, Mechanism::Low, Protection::Plain).await, Ok(()));
    // Another suite than the keys'.
    let mut wrong = named.clone();
    wrong.suite = Suite::Suite2;
    assert_eq!(
        open(&wrong, Mechanism::HlsEcdsa, Protection::Glo).await,
        refused
    );
}

/// Custody with the defaults, and with a client certificate.
pub(crate) async fn what_is_weak_needs_leave(house: House, tasks: &Tasks) -> House {
    let House {
        bed,
        running,
        client_keys,
        ..
    } = house;
    running.stop().await;
    let certified = |name: &str, public: &[u8]| {
        let file = bed.dir.join(name);
        std::fs::write(&file, certificate("4D4D4D0000000001", public)).unwrap();
        format!("lab_import = true\nclient_certificate_suite1_file = {file:?}")
    };
    let stranger = KeyPair::generate().unwrap();
    let config = certified("wrong.pem", stranger.public_key_raw());
    let refused = bed.custody(&config, tasks).await.ended().await.unwrap_err();
    assert!(
        refused.contains("not that of the token's signing key"),
        "{refused}"
    );

    let point = [&[4][..], &client_keys[0].signing_key].concat();
    let config = certified("good.pem", &point);
    let house = House::open(bed, &config, tasks).await;
    let signing = |keys: &GetClientKeysResponse| keys.signing_key.clone();
    assert_eq!(
        house.client_keys.each_ref().map(signing),
        client_keys.each_ref().map(signing),
        "the token's keys are what they were"
    );
    let meter = Meter::new(&house, "leave", Suite::Suite1);
    let meter = meter.enrolled(&house).await;
    for weak in [
        how(Mechanism::HlsMd5, Protection::Glo),
        how(Mechanism::HlsSha1, Protection::Glo),
        How {
            authenticated: false,
            ..how(Mechanism::HlsGmac, Protection::Glo)
        },
    ] {
        let refused = Talk::open(&house, meter.clone(), weak, vec![]).await;
        let refused = reason(refused.map(|_| ()));
        assert_eq!(refused, "ASSOCIATION_REFUSED", "{weak:?}");
    }
    the_certificate_is_sent_where_it_fits(&house, meter).await;
    house
}

async fn the_certificate_is_sent_where_it_fits(house: &House, meter: Meter) {
    let opened = async |meter: Meter, mechanism| {
        let how = how(mechanism, Protection::Glo);
        let talk = Talk::open(house, meter, how, vec![]).await.unwrap();
        talk.opened.client_certificate
    };
    let sent = opened(meter.clone(), Mechanism::HlsEcdsa).await;
    assert!(sent.len() > 200 && sent.starts_with(&[0x30]), "DER");
    let shown = &house.client_keys[0].signing_certificate;
    assert_eq!(
        (shown, house.client_keys[1].signing_certificate.len()),
        (&sent, 0)
    );
    let gmac = opened(meter, Mechanism::HlsGmac).await;
    assert!(gmac.is_empty(), "no mechanism that wants it");
    let mut other = Meter::new(house, "leave-other", Suite::Suite1);
    other.request.client_system_title[7] = 2;
    let other = opened(other.enrolled(house).await, Mechanism::HlsEcdsa).await;
    assert!(other.is_empty(), "another client's title");
}

/// A certificate of this public key, signed by somebody.
fn certificate(title: &str, public: &[u8]) -> String {
    let authority = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    let issuer = CertifiedIssuer::self_signed(params, authority).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, title);
    struct Public(Vec<u8>);
    impl rcgen::PublicKeyData for Public {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }
    let signed = params.signed_by(&Public(public.to_vec()), &issuer).unwrap();
    signed.pem()
}
