//! `MeterService`.

use kit::{PeerName, Trail, clock, context, peer};
use latchkey_proto::{
    association::v1::{
        CreateMeterRequest, CreateMeterResponse, DeleteMeterRequest, DeleteMeterResponse,
        GetMeterRequest, GetMeterResponse, ListMetersRequest, ListMetersResponse,
        meter_service_server::MeterService,
    },
    audit::v1::{Entry, EntryKind},
    custody::v1::{KeyInfo, Mechanism, SecurityPolicy},
};
use tonic::{Request, Response, Status};

use crate::{
    directory::{Address, Meter},
    error::Error,
    store::Store,
};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;

/// The service.
pub(crate) struct MeterApi {
    pub(crate) store: Store,
    pub(crate) trail: Trail,
}

impl MeterApi {
    /// Enrols a meter; the one that is enrolled, if it is the same.
    async fn enrol(&self, meter: Meter, principal: &PeerName) -> Result<Meter, Error> {
        if let Some(enrolled) = self.store.by_id(&meter.id).await? {
            return same(enrolled, &meter);
        }
        if let Some(other) = self.store.holder_of(&meter).await? {
            return Err(Error::AddressTaken {
                address: meter.address.to_string(),
                meter_id: other,
            });
        }
        // The trail first: an enrolment that nobody can see must not exist.
        self.record(&meter, principal, "enrolled").await?;
        if self.store.insert(&meter).await? {
            return Ok(meter);
        }
        // Somebody else was quicker.
        match self.store.by_id(&meter.id).await? {
            Some(enrolled) => same(enrolled, &meter),
            None => Err(Error::AddressTaken {
                address: meter.address.to_string(),
                meter_id: self.store.holder_of(&meter).await?.unwrap_or_default(),
            }),
        }
    }

    async fn record(&self, meter: &Meter, principal: &PeerName, what: &str) -> Result<(), Error> {
        let entry = Entry {
            kind: EntryKind::Meter.into(),
            principal: principal.to_string(),
            meter_id: meter.id.clone(),
            request_id: context::request_id(),
            detail: format!("{what}: {}", facts(meter)),
            ..Entry::default()
        };
        self.trail
            .record(entry)
            .await
            .map(drop)
            .map_err(Error::Trail)
    }
}

/// A meter's facts in one line, for the trail.
fn facts(meter: &Meter) -> String {
    let Meter {
        address,
        client_sap,
        server_sap,
        profile,
        security,
        ..
    } = meter;
    let mut facts = format!(
        "address {address}, {}, client SAP {client_sap}, server SAP {server_sap}, {}, {}, suite {}, profile {profile}",
        word(meter.transport.kind().as_str_name(), "TRANSPORT_"),
        mechanism(meter.mechanism),
        word(meter.protection.as_str_name(), "PROTECTION_"),
        security.suite,
    );
    for (said, what) in [
        (
            security.policy != SecurityPolicy::Unspecified,
            word(security.policy.as_str_name(), "SECURITY_POLICY_"),
        ),
        (security.signed, "signed".to_owned()),
        (
            security.key_info != KeyInfo::Unspecified,
            word(security.key_info.as_str_name(), "KEY_INFO_"),
        ),
    ] {
        if said {
            facts.push_str(", ");
            facts.push_str(&what);
        }
    }
    facts
}

/// A name of the protocol as people type it: `PROTECTION_GENERAL_GLO` is `general-glo`.
fn word(name: &str, prefix: &str) -> String {
    let short = name.strip_prefix(prefix).unwrap_or(name);
    short.to_lowercase().replace('_', "-")
}

/// A mechanism by its number in the standard.
const fn mechanism(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::Unspecified => "no mechanism",
        Mechanism::None => "NONE",
        Mechanism::Low => "LOW",
        Mechanism::HlsMd5 => "HLS3",
        Mechanism::HlsSha1 => "HLS4",
        Mechanism::HlsGmac => "HLS5",
        Mechanism::HlsSha256 => "HLS6",
        Mechanism::HlsEcdsa => "HLS7",
    }
}

fn same(enrolled: Meter, asked: &Meter) -> Result<Meter, Error> {
    if enrolled.same_facts(asked) {
        Ok(enrolled)
    } else {
        Err(Error::MeterExists(enrolled.id))
    }
}

#[tonic::async_trait]
impl MeterService for MeterApi {
    async fn create_meter(
        &self,
        request: Request<CreateMeterRequest>,
    ) -> Result<Response<CreateMeterResponse>, Status> {
        let principal = peer(&request);
        let meter = request
            .get_ref()
            .meter
            .as_ref()
            .ok_or_else(|| Error::field("meter", "is required"))?;
        // Microseconds, as they are stored: the answer to a repeated call is the same.
        let now = clock::from_micros(clock::micros(clock::now()));
        let meter = self.enrol(Meter::parse(meter, now)?, &principal).await?;
        Ok(Response::new(CreateMeterResponse {
            meter: Some(meter.render()),
        }))
    }

    async fn get_meter(
        &self,
        request: Request<GetMeterRequest>,
    ) -> Result<Response<GetMeterResponse>, Status> {
        let GetMeterRequest { meter_id, address } = request.into_inner();
        let meter = if meter_id.is_empty() {
            let canonical = Address::parse(&address).map_err(|why| Error::field("address", why))?;
            let mut found = self.store.by_address(&canonical.to_string()).await?;
            if found.len() > 1 {
                return Err(Error::AddressAmbiguous(address).into());
            }
            found.pop().ok_or(Error::MeterUnknown(address))?
        } else {
            kit::check::meter_id(&meter_id).map_err(|why| Error::field("meter_id", why))?;
            self.store
                .by_id(&meter_id)
                .await?
                .ok_or(Error::MeterUnknown(meter_id))?
        };
        Ok(Response::new(GetMeterResponse {
            meter: Some(meter.render()),
        }))
    }

    async fn list_meters(
        &self,
        request: Request<ListMetersRequest>,
    ) -> Result<Response<ListMetersResponse>, Status> {
        let ListMetersRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let size = match page_size {
            0 => PAGE_DEFAULT,
            1..=PAGE_MAX => page_size,
            _ => return Err(Error::field("page_size", "must be 0..1000").into()),
        };
        let after = after_of(&page_token)
            .ok_or_else(|| Error::field("page_token", "is not one of ours"))?;
        // One more than the page, to know whether there is a next.
        let mut meters = self.store.list(&after, size.saturating_add(1)).await?;
        let more = meters.len() > usize::try_from(size).unwrap_or(usize::MAX);
        if more {
            meters.pop();
        }
        let next_page_token = meters
            .last()
            .filter(|_| more)
            .map(|meter| hex::encode(&meter.id))
            .unwrap_or_default();
        let meters = meters.iter().map(Meter::render).collect();
        Ok(Response::new(ListMetersResponse {
            meters,
            next_page_token,
        }))
    }

    async fn delete_meter(
        &self,
        request: Request<DeleteMeterRequest>,
    ) -> Result<Response<DeleteMeterResponse>, Status> {
        let principal = peer(&request);
        let meter_id = request.into_inner().meter_id;
        kit::check::meter_id(&meter_id).map_err(|why| Error::field("meter_id", why))?;
        let meter = self
            .store
            .by_id(&meter_id)
            .await?
            .ok_or_else(|| Error::MeterUnknown(meter_id.clone()))?;
        self.record(&meter, &principal, "removed").await?;
        if !self.store.delete(&meter_id).await? {
            return Err(Error::MeterUnknown(meter_id).into());
        }
        Ok(Response::new(DeleteMeterResponse {}))
    }
}

/// The id that a page token stands for.
fn after_of(token: &str) -> Option<String> {
    if token.is_empty() {
        return Some(String::new());
    }
    let id = String::from_utf8(hex::decode(token).ok()?).ok()?;
    kit::check::meter_id(&id).ok().map(|()| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens() {
        assert_eq!(after_of(""), Some(String::new()));
        assert_eq!(after_of(&hex::encode("m-1")).as_deref(), Some("m-1"));
        for bad in ["zz", "00", "ff", &hex::encode("a/b")] {
            assert_eq!(after_of(bad), None, "{bad}");
        }
    }
}
