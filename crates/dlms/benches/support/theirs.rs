//! `dlms-cosem-rs`, with its own software ciphers.

use dlms_cosem_rs::acse::AuthMechanism;
use dlms_cosem_rs::axdr::Data;
use dlms_cosem_rs::client::{AssociationStep, ClientConfig, ClientSession, Response};
use dlms_cosem_rs::codec::{Encode as _, Writer};
use dlms_cosem_rs::cosem::{AttributeAccess, MethodAccess};
use dlms_cosem_rs::obis::Obis;
use dlms_cosem_rs::security::{
    FixedRandom, KeyRing, RustCryptoProvider, SecurityPolicy, SecuritySuite, SystemTitle,
};
use dlms_cosem_rs::server::{ObjectStore, Server, ServerConfig, StoreResult};
use dlms_cosem_rs::xdlms::{
    ActionResult, AttributeDescriptor, DataAccessResult, MethodDescriptor, SelectiveAccess,
};

use super::{AK, CLIENT, CLOCK, EK, METER, SCRIPT, VALUE};

pub(crate) type Client = ClientSession<RustCryptoProvider<FixedRandom>>;
pub(crate) type Meter = Server<Objects, RustCryptoProvider<FixedRandom>>;

pub(crate) struct Objects;

impl ObjectStore for Objects {
    fn get_attribute(
        &self,
        _class_id: u16,
        _name: Obis,
        _index: i8,
        _access: Option<SelectiveAccess<'_>>,
        w: &mut dyn Writer,
    ) -> StoreResult<()> {
        Data::DoubleLongUnsigned(VALUE)
            .encode(w)
            .map_err(|_| DataAccessResult::OtherReason)
    }

    fn invoke_method(
        &mut self,
        _class_id: u16,
        _name: Obis,
        _index: i8,
        _parameters: Option<Data<'_>>,
        _w: &mut dyn Writer,
    ) -> Result<bool, ActionResult> {
        Ok(false)
    }

    fn attribute_access(&self, _class_id: u16, _name: Obis, _index: i8) -> AttributeAccess {
        AttributeAccess::READ
    }

    fn method_access(&self, _class_id: u16, _name: Obis, _index: i8) -> MethodAccess {
        MethodAccess::ACCESS
    }
}

fn provider(random: u8) -> RustCryptoProvider<FixedRandom> {
    RustCryptoProvider::with_rng(KeyRing::new(EK, AK), FixedRandom(random))
}

/// A client that goes on with the counter of the one before.
pub(crate) fn client(invocation_counter: u32) -> Client {
    ClientSession::new(
        ClientConfig {
            client_sap: 1,
            system_title: Some(SystemTitle::new(CLIENT)),
            mechanism: AuthMechanism::HighGmac,
            security: SecurityPolicy::authenticated_encrypted(SecuritySuite::Suite0),
            invocation_counter,
            ..ClientConfig::default()
        },
        provider(0x11),
    )
}

pub(crate) fn meter() -> Meter {
    Server::new(
        ServerConfig {
            system_title: Some(SystemTitle::new(METER)),
            mechanism: AuthMechanism::HighGmac,
            security: SecurityPolicy::authenticated_encrypted(SecuritySuite::Suite0),
            ..ServerConfig::default()
        },
        Objects,
        provider(0x22),
    )
}

/// Passes 1 to 4. `exchange` carries an APDU there (the first octets of the buffer) and its answer back.
pub(crate) fn open(
    client: &mut Client,
    out: &mut [u8],
    mut exchange: impl FnMut(&[u8], &mut Vec<u8>),
    answer: &mut Vec<u8>,
) {
    let length = client.associate_request(out).unwrap();
    exchange(&out[..length], answer);
    let step = client.handle_associate_response(answer).unwrap();
    assert_eq!(step, AssociationStep::HlsReplyRequired);
    let length = client.hls_reply_request(out).unwrap();
    exchange(&out[..length], answer);
    let step = client.handle_hls_reply_response(answer).unwrap();
    assert_eq!(step, AssociationStep::Established);
}

pub(crate) fn get(
    client: &mut Client,
    out: &mut [u8],
    mut exchange: impl FnMut(&[u8], &mut Vec<u8>),
    answer: &mut Vec<u8>,
) -> u64 {
    let [a, b, c, d, e, f] = CLOCK;
    let attribute = AttributeDescriptor::new(8, Obis::new(a, b, c, d, e, f), 2);
    let length = client.get_request(attribute, None, out).unwrap();
    exchange(&out[..length], answer);
    match client.handle_response(answer, out).unwrap() {
        Response::Data(value) => value.as_u64().unwrap(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn action(
    client: &mut Client,
    out: &mut [u8],
    mut exchange: impl FnMut(&[u8], &mut Vec<u8>),
    answer: &mut Vec<u8>,
) {
    let [a, b, c, d, e, f] = SCRIPT;
    let method = MethodDescriptor::new(9, Obis::new(a, b, c, d, e, f), 1);
    let length = client
        .action_request(method, Some(Data::LongUnsigned(1)), out)
        .unwrap();
    exchange(&out[..length], answer);
    client.handle_response(answer, out).unwrap();
}

pub(crate) fn release(
    client: &mut Client,
    out: &mut [u8],
    mut exchange: impl FnMut(&[u8], &mut Vec<u8>),
    answer: &mut Vec<u8>,
) {
    let length = client.release_request(out).unwrap();
    exchange(&out[..length], answer);
}
