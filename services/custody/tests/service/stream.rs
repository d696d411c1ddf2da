//! Jobs over one stream: done as calls are, in order, and refused as calls are.

use futures::stream;
use kit::status;
use latchkey_proto::custody::v1::{
    CipherJob, CipherRequest, CipherResult, ProtectRequest, cipher_job::Job, cipher_result::Outcome,
};
use tonic::{Code, Status};

use crate::{House, METER, RELAY, support::Meter};

/// What came of these messages, and how the stream ended.
async fn sent(
    house: &House,
    peer: &str,
    messages: Vec<Vec<CipherJob>>,
) -> (Vec<CipherResult>, Result<(), Status>) {
    let mut client = house.bed.cipher(house.running.address, peer);
    let messages = messages.into_iter().map(|jobs| CipherRequest { jobs });
    let mut answers = client
        .cipher(stream::iter(messages))
        .await
        .unwrap()
        .into_inner();
    let mut results = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(message)) => results.extend(message.results),
            Ok(None) => return (results, Ok(())),
            Err(status) => return (results, Err(status)),
        }
    }
}

fn job(job_id: u64, context_id: &str, apdu: Vec<u8>) -> CipherJob {
    let context_id = context_id.to_owned();
    CipherJob {
        job_id,
        job: Some(Job::Protect(ProtectRequest { context_id, apdu })),
        ..CipherJob::default()
    }
}

fn reason(result: &CipherResult) -> (Code, String) {
    let Some(Outcome::Failure(failure)) = &result.outcome else {
        panic!("it should be refused: {result:?}");
    };
    let failure = failure.clone();
    let status = status::from_parts(failure.code, failure.message, failure.details);
    (status.code(), status::reason(&status).unwrap())
}

pub(super) async fn jobs_are_done_in_order(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let id = association.context_id.clone();
    let read = association.get_apdu(70, RELAY, 2);
    let other = association.get_apdu(70, RELAY, 3);
    // Whatever fits, and one in the middle that no permit covers.
    let apdu = |n: u64| if n == 40 { &other } else { &read }.clone();
    let jobs = |from: u64| (from..from + 64).map(|n| job(n, &id, apdu(n))).collect();
    let (results, ended) = sent(
        house,
        "latchkey/association",
        vec![jobs(0), jobs(64), jobs(128)],
    )
    .await;
    ended.unwrap();
    let numbers: Vec<u64> = results.iter().map(|result| result.job_id).collect();
    assert_eq!(numbers, (0..192).collect::<Vec<_>>());
    let mut last = 0;
    for result in results {
        if result.job_id == 40 {
            let refused = (Code::PermissionDenied, "APDU_NOT_PERMITTED".to_owned());
            assert_eq!(reason(&result), refused);
            continue;
        }
        let Some(Outcome::Protect(done)) = result.outcome else {
            panic!("{result:?}");
        };
        assert_eq!(meter.open(&done.apdu), read);
        assert!(done.invocation_counter > last, "in the order of the jobs");
        last = done.invocation_counter;
    }
    association.close().await.unwrap();
}

pub(super) async fn a_stream_takes_what_a_call_takes(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let id = association.context_id.clone();
    let read = association.get_apdu(70, RELAY, 2);
    let stolen = vec![vec![job(1, &id, read.clone())]];
    let (results, _) = sent(house, "latchkey/other", stolen).await;
    assert_eq!(reason(&results[0]).1, "CONTEXT_UNKNOWN", "{METER}");
    let empty = CipherJob::default();
    let (results, ended) = sent(house, "latchkey/association", vec![vec![empty]]).await;
    assert_eq!(reason(&results[0]).0, Code::InvalidArgument);
    ended.unwrap();
    // Too many jobs, or none, end the stream; what came before is answered.
    let many: Vec<_> = (2..67).map(|n| job(n, &id, read.clone())).collect();
    for bad in [vec![], many] {
        let messages = vec![vec![job(1, &id, read.clone())], bad];
        let (results, ended) = sent(house, "latchkey/association", messages).await;
        assert_eq!(ended.unwrap_err().code(), Code::InvalidArgument);
        for result in results {
            let Some(Outcome::Protect(done)) = result.outcome else {
                panic!("{result:?}");
            };
            meter.open(&done.apdu);
        }
    }
    // More than one message may be: their sum is not limited, and each is.
    let long = vec![0xC0; 60_000];
    let messages: Vec<_> = (0..20).map(|n| vec![job(n, &id, long.clone())]).collect();
    let (results, ended) = sent(house, "latchkey/association", messages).await;
    ended.unwrap();
    assert_eq!(results.len(), 20);
    let too_long = (0..20).map(|n| job(n, &id, long.clone())).collect();
    let (results, ended) = sent(house, "latchkey/association", vec![too_long]).await;
    assert!(results.is_empty() && ended.is_ok(), "{ended:?}");
    association.close().await.unwrap();
}
