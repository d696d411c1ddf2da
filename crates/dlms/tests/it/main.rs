//! The crate from outside: worked examples, associations in memory, attackers between them, and properties.
//!
//! One binary with modules: they share the software cipher and the `Pair`.

#[cfg(test)]
mod apdus;
#[cfg(test)]
mod associations;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod blocks;
#[cfg(test)]
mod codec;
#[cfg(test)]
mod cosem;
#[cfg(test)]
mod datagrams;
#[cfg(test)]
mod forgetful;
#[cfg(test)]
mod gbt;
#[cfg(test)]
mod hdlc;
#[cfg(test)]
mod joined;
#[cfg(test)]
mod line;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod pair;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod responder;
#[cfg(test)]
mod services;
#[cfg(test)]
mod soft;
#[cfg(test)]
mod stations;
#[cfg(test)]
mod traps;
#[cfg(test)]
mod values;
#[cfg(test)]
mod vectors;
#[cfg(test)]
mod world;
