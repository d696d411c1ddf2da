//! What a meter has besides its row: keys that are not in use yet or no longer, and the parameters of a rotation.

use dlms::agreement::KeyId;
use hsm::{Reseal, Token};

use crate::{
    error::Error,
    keyring::Kek,
    rotation::parameter_binding,
    store::{GenerationRow, RotationRow},
};

/// A key under the new generation; none if it does not open under the one its row names.
pub(super) async fn key(
    (token, backup): (&Token, &Token),
    old: &GenerationRow,
    to: u32,
) -> Result<Option<GenerationRow>, Error> {
    let from = old.kek_generation;
    let mut new = GenerationRow {
        kek_generation: to,
        ..old.clone()
    };
    let kek = match old.key {
        KeyId::GlobalUnicastEncryption | KeyId::GlobalBroadcastEncryption => Kek::Encryption,
        KeyId::Master => Kek::Master,
        KeyId::GlobalAuthentication => Kek::Authentication,
    };
    if kek != Kek::Authentication {
        let wrapped = vec![old.secret.clone()];
        let rewrapped = backup.rewrap(&kek.of(from), &kek.of(to), wrapped).await?;
        let Some(secret) = only(rewrapped) else {
            return Ok(None);
        };
        new.secret = secret;
    }
    if kek == Kek::Encryption {
        let again = vec![(kek.of(to), new.secret.clone())];
        let marks = only(token.marks_of(again).await?);
        if marks.is_none_or(|marks| marks.check_value[..] != old.check_value[..]) {
            return Ok(None);
        }
    }
    let sealed = match kek {
        Kek::Authentication => &old.secret,
        _ => &old.seal,
    };
    let bindings = (old.binding(), new.binding());
    let Some(sealed) = reseal(token, (from, to), sealed, bindings).await? else {
        return Ok(None);
    };
    match kek {
        Kek::Authentication => new.secret = sealed,
        _ => new.seal = sealed,
    }
    Ok(Some(new))
}

/// A rotation whose parameters are under the new generation; none if one does not open.
pub(super) async fn rotation(
    token: &Token,
    old: &RotationRow,
    to: u32,
) -> Result<Option<RotationRow>, Error> {
    let mut new = RotationRow {
        kek_generation: to,
        ..old.clone()
    };
    for (what, place) in [
        ("send", &mut new.sealed_send),
        ("confirm", &mut new.sealed_confirm),
    ] {
        if place.is_empty() {
            continue;
        }
        let bound = parameter_binding(old, what);
        let bindings = (bound.clone(), bound);
        match reseal(token, (old.kek_generation, to), place, bindings).await? {
            Some(sealed) => *place = sealed,
            None => return Ok(None),
        }
    }
    Ok(Some(new))
}

async fn reseal(
    token: &Token,
    (from, to): (u32, u32),
    blob: &[u8],
    (old_aad, new_aad): (Vec<u8>, Vec<u8>),
) -> Result<Option<Vec<u8>>, Error> {
    let one = Reseal {
        blob: blob.to_vec(),
        old_aad,
        new_aad,
    };
    let (from, to) = (Kek::Authentication.of(from), Kek::Authentication.of(to));
    Ok(only(token.reseal(&from, &to, vec![one]).await?))
}

fn only<T>(mut outcomes: Vec<Result<T, hsm::Error>>) -> Option<T> {
    outcomes.pop()?.ok()
}
