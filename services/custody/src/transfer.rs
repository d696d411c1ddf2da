//! A value that goes out in blocks: what a SET writes, or what a method is given.
//!
//! What the blocks are of is in the first one, and compared with the permit there. The value is compared as far as it
//! is there with each block, octet by octet, before that block is ciphered: it must be the beginning of one that the
//! permit covers, and with the last block it must be the whole of it. While the meter may still be in a transfer nothing
//! else is ciphered ([`crate::step`]). So a block that was ciphered is never a part of anything else, and no more is kept
//! than the longest value of the permit.

use crate::{
    apdu::{Asked, Block, Service, forbidden_but_rekeying},
    error::Error,
    permit::Allowed,
};

/// A value of which not all has been ciphered.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    invoke: u8,
    service: Service,
    list: bool,
    /// For each attribute or method: the commands of the permit that it could be, with their parameters.
    items: Vec<Vec<(usize, Vec<u8>)>>,
    /// What has been ciphered.
    octets: Vec<u8>,
    /// The number of the block that was ciphered last; 0 before the first.
    number: u32,
}

/// The value is not shown.
impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (service, number) = (self.service, self.number);
        write!(f, "{service:?} in blocks, {number} so far")
    }
}

/// What a block leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More is to come.
    Begun(Transfer),
    /// It is the last: these commands of the permit are executed by it, one for each attribute or method.
    Whole(Vec<usize>),
}

impl Transfer {
    /// Nothing ciphered yet of a value for these attributes or methods.
    pub(crate) fn new(
        invoke: u8,
        list: bool,
        heads: &[Asked],
        allowed: &[Allowed],
    ) -> Result<Self, Error> {
        let first = heads
            .first()
            .ok_or_else(|| refused("it asks for nothing"))?;
        let items = heads
            .iter()
            .map(|head| candidates(head, list, allowed))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            invoke,
            service: first.service,
            list,
            items,
            octets: Vec::new(),
            number: 0,
        })
    }

    pub(crate) fn invoke(&self) -> u8 {
        self.invoke
    }

    pub(crate) fn service(&self) -> Service {
        self.service
    }

    /// How many attributes or methods, of a list.
    pub(crate) fn count(&self) -> Option<usize> {
        self.list.then_some(self.items.len())
    }

    /// The number of the block that was ciphered last.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// What one more block leads to. It changes nothing: the block may fail to be ciphered.
    pub(crate) fn with(&self, block: &Block) -> Result<Progress, Error> {
        if block.number != self.number.saturating_add(1) {
            return Err(refused("it is not the next block"));
        }
        if block.octets.is_empty() {
            return Err(refused("a block carries something"));
        }
        let octets = [self.octets.as_slice(), &block.octets].concat();
        match (self.compare(&octets)?, block.last) {
            (Some(commands), true) => Ok(Progress::Whole(commands)),
            (None, false) => Ok(Progress::Begun(Self {
                octets,
                number: block.number,
                ..self.clone()
            })),
            (Some(_), false) => Err(refused("the value is whole, and its block is not the last")),
            (None, true) => Err(refused("the last block comes before the value is whole")),
        }
    }

    /// The commands whose parameters these octets are; none yet if they are the beginning of some.
    fn compare(&self, octets: &[u8]) -> Result<Option<Vec<usize>>, Error> {
        let other = || refused("the value in blocks is none that the permit covers");
        let mut rest = octets;
        if self.list {
            // The number of parameters: a permit has at most 64 commands, so it is one octet.
            let count = u8::try_from(self.items.len()).map_err(|_| other())?;
            rest = rest.strip_prefix(&[count]).ok_or_else(other)?;
        }
        let mut commands = Vec::with_capacity(self.items.len());
        for item in &self.items {
            // A-XDR says itself where it ends: no parameter is the beginning of another.
            let whole = item.iter().find_map(|(command, parameter)| {
                Some((*command, rest.strip_prefix(&parameter[..])?))
            });
            match whole {
                Some((command, after)) => {
                    commands.push(command);
                    rest = after;
                }
                None if item
                    .iter()
                    .any(|(_, parameter)| parameter.starts_with(rest)) =>
                {
                    return Ok(None);
                }
                None => return Err(other()),
            }
        }
        if rest.is_empty() {
            Ok(Some(commands))
        } else {
            Err(other())
        }
    }
}

/// The commands of the permit that an attribute or method could be.
fn candidates(
    head: &Asked,
    list: bool,
    allowed: &[Allowed],
) -> Result<Vec<(usize, Vec<u8>)>, Error> {
    let rekeying = forbidden_but_rekeying(head, allowed)?;
    let parameter = |asked: &Asked| match list {
        true => asked.listed_parameter().to_vec(),
        false => asked.parameter.clone(),
    };
    let found: Vec<_> = allowed
        .iter()
        .enumerate()
        .filter(|(_, it)| head.same_target(&it.asked) && (!rekeying || it.named.is_some()))
        .map(|(index, allowed)| (index, parameter(&allowed.asked)))
        // What has no parameter is not sent in blocks.
        .filter(|(_, parameter)| !parameter.is_empty())
        .collect();
    if found.is_empty() {
        return Err(refused(
            "no command of the permit is this service on this object with a value",
        ));
    }
    Ok(found)
}

fn refused(why: &'static str) -> Error {
    Error::ApduNotPermitted { why }
}

#[cfg(test)]
mod tests;
