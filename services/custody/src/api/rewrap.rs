//! `RewrapKeys` and `ListKekGenerations` of `latchkey.custody.v1.KeyService`.

use futures::stream::{self, BoxStream, StreamExt as _};
use latchkey_proto::custody::v1::{KekGeneration, ListKekGenerationsResponse, RewrapKeysResponse};
use tonic::Status;

use crate::{
    custody::Custody,
    error::Error,
    rewrap::{Needed, Progress, Rewrap},
};

/// One message a batch, as the caller takes them. Whoever leaves stops it.
pub(super) fn watch(rewrap: Rewrap) -> BoxStream<'static, Result<RewrapKeysResponse, Status>> {
    stream::try_unfold(rewrap, |mut rewrap| async move {
        let progress = rewrap.step().await?;
        Ok::<_, Status>(progress.map(|progress| (render(progress), rewrap)))
    })
    .boxed()
}

pub(super) async fn generations(custody: &Custody) -> Result<ListKekGenerationsResponse, Error> {
    let generations = custody.generations().await?;
    Ok(ListKekGenerationsResponse {
        generations: generations.iter().map(generation).collect(),
        current_generation: custody.keyring.generation(),
    })
}

fn generation(needed: &Needed) -> KekGeneration {
    KekGeneration {
        generation: needed.kek.number,
        usable: needed.kek.ek && needed.kek.ak,
        has_hls_secrets: needed.kek.hs,
        has_master_keys: needed.kek.mk,
        row_count: needed.rows,
    }
}

fn render(progress: Progress) -> RewrapKeysResponse {
    RewrapKeysResponse {
        to_generation: progress.to,
        meters_total: progress.total,
        meters_done: progress.done,
        meters_again: progress.again,
        failed_meter_ids: progress.named,
        meters_failed: progress.failed,
        finished: progress.finished,
    }
}
