//! The bare program: the token calls that custody makes, with nothing around them. What of the keys is in its memory is the
//! module's doing, and no caller's.

use std::{fs, io::Read as _, path::Path};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism,
        aead::GcmParams,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
};
use zeroize::Zeroizing;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// Keys of one meter as they come in: wrapped under `transport-1`; empty for none.
pub(crate) struct Wrapped {
    pub(crate) encryption: Vec<u8>,
    pub(crate) authentication: Vec<u8>,
    pub(crate) secret: Vec<u8>,
    pub(crate) master: Vec<u8>,
}

/// The same, as they are kept.
struct Kept {
    encryption: Vec<u8>,
    authentication: Vec<u8>,
    secret: Vec<u8>,
    master: Vec<u8>,
}

struct Token {
    session: Session,
}

/// Does the work, says so with a file, and waits until its standard input ends.
pub(crate) fn run(dir: &Path, order: &Path) {
    let pin = Zeroizing::new(fs::read_to_string(dir.join("pin")).unwrap());
    let context = Pkcs11::new(MODULE).unwrap();
    let flags = CInitializeFlags::OS_LOCKING_OK;
    context.initialize(CInitializeArgs::new(flags)).unwrap();
    let slot = context.get_slots_with_initialized_token().unwrap()[0];
    let token = Token {
        session: context.open_rw_session(slot).unwrap(),
    };
    let secret = pin.trim().to_owned().into();
    token.session.login(UserType::User, Some(&secret)).unwrap();
    let (meters, times) = read_order(order);
    let kept: Vec<Kept> = meters.iter().map(|meter| token.take_in(meter)).collect();
    for _ in 0..times {
        kept.iter().for_each(|meter| token.use_once(meter));
    }
    fs::write(order.with_extension("done"), "").unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Writes what [`run`] is to do.
pub(crate) fn write_order(order: &Path, meters: &[Wrapped], times: usize) {
    let lines = meters.iter().map(|meter| {
        let fields = [
            &meter.encryption,
            &meter.authentication,
            &meter.secret,
            &meter.master,
        ];
        fields.map(hex::encode).join(",")
    });
    let text: Vec<String> = lines.collect();
    fs::write(order, format!("{times}\n{}\n", text.join("\n"))).unwrap();
}

fn read_order(order: &Path) -> (Vec<Wrapped>, usize) {
    let text = fs::read_to_string(order).unwrap();
    let mut lines = text.lines();
    let times = lines.next().unwrap().parse().unwrap();
    let meters = lines.map(|line| {
        let mut fields = line.split(',').map(|field| hex::decode(field).unwrap());
        let mut next = || fields.next().unwrap();
        Wrapped {
            encryption: next(),
            authentication: next(),
            secret: next(),
            master: next(),
        }
    });
    (meters.collect(), times)
}

impl Token {
    fn key(&self, label: &str) -> ObjectHandle {
        let label = Attribute::Label(label.as_bytes().to_vec());
        let found = self.session.find_objects(&[label]).unwrap();
        let of_class = |object: &ObjectHandle| {
            let class = self
                .session
                .get_attributes(*object, &[AttributeType::Class]);
            class.unwrap() != [Attribute::Class(ObjectClass::PUBLIC_KEY)]
        };
        found.into_iter().find(of_class).unwrap()
    }

    fn take_in(&self, meter: &Wrapped) -> Kept {
        Kept {
            encryption: self.pass(&meter.encryption, KeyType::AES, "kek-ek-1"),
            authentication: self.seal(&meter.authentication),
            secret: self.pass(&meter.secret, KeyType::GENERIC_SECRET, "kek-hs-1"),
            master: self.pass(&meter.master, KeyType::AES, "kek-mk-1"),
        }
    }

    /// From under the transport key to under the token's own.
    fn pass(&self, wrapped: &[u8], key_type: KeyType, kek: &str) -> Vec<u8> {
        if wrapped.is_empty() {
            return Vec::new();
        }
        let key = self.unwrap("transport-1", wrapped, &incoming(key_type, false));
        let kept = self
            .session
            .wrap_key(&Mechanism::AesKeyWrap, self.key(kek), key);
        self.session.destroy_object(key).unwrap();
        kept.unwrap()
    }

    /// An authentication key must be seen once: it is sealed with AES-GCM.
    fn seal(&self, wrapped: &[u8]) -> Vec<u8> {
        let key = self.unwrap("transport-1", wrapped, &incoming(KeyType::AES, true));
        let mut read = self
            .session
            .get_attributes(key, &[AttributeType::Value])
            .unwrap();
        self.session.destroy_object(key).unwrap();
        let Some(Attribute::Value(value)) = read.pop() else {
            panic!("no value");
        };
        let value = Zeroizing::new(value);
        let mut nonce = [7; 12];
        let gcm = GcmParams::new(&mut nonce, b"row", 128.into()).unwrap();
        let sealed = self
            .session
            .encrypt(&Mechanism::AesGcm(gcm), self.key("kek-ak-1"), &value);
        sealed.unwrap()
    }

    fn unwrap(&self, kek: &str, wrapped: &[u8], template: &[Attribute]) -> ObjectHandle {
        self.session
            .unwrap_key(&Mechanism::AesKeyWrap, self.key(kek), wrapped, template)
            .unwrap()
    }

    /// What one association asks of the token.
    fn use_once(&self, meter: &Kept) {
        let mut nonce = [7; 12];
        let gcm = GcmParams::new(&mut nonce, b"row", 128.into()).unwrap();
        let ak = self
            .session
            .decrypt(
                &Mechanism::AesGcm(gcm),
                self.key("kek-ak-1"),
                &meter.authentication,
            )
            .map(Zeroizing::new)
            .unwrap();
        let key = self.unwrap("kek-ek-1", &meter.encryption, &held(KeyType::AES, "ek"));
        self.session
            .sign(&Mechanism::AesCMac, key, &[0; 16])
            .unwrap();
        let aad = Zeroizing::new([&[0x30][..], &ak].concat());
        for n in 0..12 {
            let mut nonce = [n; 12];
            let gcm = GcmParams::new(&mut nonce, &aad, 96.into()).unwrap();
            let sealed = self
                .session
                .encrypt(&Mechanism::AesGcm(gcm), key, &[0xC0; 13]);
            let mut nonce = [n; 12];
            let gcm = GcmParams::new(&mut nonce, &aad, 96.into()).unwrap();
            self.session
                .decrypt(&Mechanism::AesGcm(gcm), key, &sealed.unwrap())
                .unwrap();
        }
        self.session.destroy_object(key).unwrap();
        if !meter.secret.is_empty() {
            let template = held(KeyType::GENERIC_SECRET, "hs");
            let secret = self.unwrap("kek-hs-1", &meter.secret, &template);
            self.session.digest_init(&Mechanism::Sha256).unwrap();
            self.session.digest_key(secret).unwrap();
            self.session.digest_final().unwrap();
            self.session.destroy_object(secret).unwrap();
        }
        if !meter.master.is_empty() {
            let master = self.unwrap("kek-mk-1", &meter.master, &held(KeyType::AES, "mk"));
            let passing = self
                .session
                .generate_key(&Mechanism::AesKeyGen, &passing())
                .unwrap();
            self.session
                .wrap_key(&Mechanism::AesKeyWrap, master, passing)
                .unwrap();
            self.session.destroy_object(passing).unwrap();
            self.session.destroy_object(master).unwrap();
        }
        self.agree_and_sign();
    }

    /// The head-end's own keys.
    fn agree_and_sign(&self) {
        let digest = [0x5A; 32];
        self.session
            .sign(&Mechanism::Ecdsa, self.key("sign-p256-1"), &digest)
            .unwrap();
        let peer = p256_base_point();
        let ecdh = Ecdh1DeriveParams::new(EcKdf::null(), &peer);
        let mut template = vec![Attribute::ValueLen(32.into())];
        template.extend(held(KeyType::GENERIC_SECRET, "hs"));
        let own = self.key("agree-p256-1");
        let agreed = self
            .session
            .derive_key(&Mechanism::Ecdh1Derive(ecdh), own, &template)
            .unwrap();
        self.session.destroy_object(agreed).unwrap();
    }
}

/// Any public key will do.
fn p256_base_point() -> Vec<u8> {
    hex::decode(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    )
    .unwrap()
}

fn incoming(key_type: KeyType, readable: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Extractable(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::KeyType(key_type),
        Attribute::Sensitive(!readable),
    ]
}

/// What the templates of the ceremony demand of a key in use.
fn held(key_type: KeyType, what: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Copyable(false),
        Attribute::Encrypt(what == "ek"),
        Attribute::Decrypt(what == "ek"),
        Attribute::Sign(what == "ek"),
        Attribute::Verify(false),
        Attribute::Wrap(what == "mk"),
        Attribute::Unwrap(what == "mk"),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ]
}

fn passing() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Encrypt(true),
        Attribute::ValueLen(16.into()),
    ]
}
