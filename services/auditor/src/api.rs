//! The gRPC services: parse, call, render.

mod allowlist;
mod permit;
mod trail;

use std::sync::Arc;

use crate::auditor::Auditor;
use crate::trail::Trail;

/// All three services are this.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) auditor: Arc<Auditor>,
    pub(crate) trail: Arc<Trail>,
}
