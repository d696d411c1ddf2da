//! auditor
pub mod policy;
