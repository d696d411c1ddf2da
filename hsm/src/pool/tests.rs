use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use cryptoki::object::{Attribute, ObjectClass};

use crate::lab::scenario;
use crate::module::Why;
use crate::token::Token;
use crate::{Error, Role};

async fn session_keys(token: &Token) -> usize {
    let count = token.on_any(|engine| {
        let keys = [
            Attribute::Token(false),
            Attribute::Class(ObjectClass::SECRET_KEY),
        ];
        Ok(engine.session().find_objects(&keys)?.len())
    });
    count.await.unwrap()
}

scenario! {
    async fn a_key_goes_with_its_last_handle(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let before = session_keys(&token).await;
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        assert_eq!(session_keys(&token).await, before, "generating leaves nothing behind");
        let first = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
        let second = first.clone();
        drop(first);
        assert_eq!(session_keys(&token).await, before + 1);
        drop(second);
        assert_eq!(session_keys(&token).await, before);
    }
}

scenario! {
    async fn a_key_nobody_waits_for_any_more_goes_too(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let before = session_keys(&token).await;
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let (go, wait) = sync_channel::<()>(1);
        let mut blocked = Box::pin(token.next_line().call(move |_| {
            wait.recv().unwrap();
            Ok(())
        }));
        assert!(futures::poll!(&mut blocked).is_pending());
        let mut unwrapping = Box::pin(token.unwrap_key("kek-ek-1", &wrapped));
        assert!(futures::poll!(&mut unwrapping).is_pending());
        drop(unwrapping);
        go.send(()).unwrap();
        blocked.await.unwrap();
        assert_eq!(session_keys(&token).await, before);
    }
}

scenario! {
    async fn a_full_queue_says_busy_and_loses_nothing(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let (started, running) = sync_channel::<()>(1);
        let (go, wait) = sync_channel::<()>(1);
        let mut blocked = Box::pin(token.next_line().call(move |_| {
            started.send(()).unwrap();
            wait.recv().unwrap();
            Ok(())
        }));
        assert!(futures::poll!(&mut blocked).is_pending());
        running.recv().unwrap();
        let mut queued: Vec<_> = (0..super::QUEUE).map(|_| Box::pin(token.random(8))).collect();
        for call in &mut queued {
            assert!(futures::poll!(call).is_pending());
        }
        assert!(matches!(token.random(8).await, Err(Error::Busy)));
        go.send(()).unwrap();
        blocked.await.unwrap();
        for call in queued {
            assert_eq!(call.await.unwrap().len(), 8);
        }
    }
}

scenario! {
    /// The worst thing a token can do to us: after a restart the old number names a new key.
    async fn a_handle_of_an_older_epoch_is_never_used(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let mine = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
        let sealed = token.seal(&mine, [1; 12], b"", b"text").await.unwrap();

        let module = crate::module::Module::load(lab.module()).unwrap();
        let epoch = module.enter().epoch();
        module.reinitialise(epoch, Why::Failure).unwrap();
        module.reinitialise(epoch, Why::Failure).unwrap();
        assert_eq!(module.enter().epoch(), epoch + 1, "one restart for one failure");

        let other = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let theirs = token.unwrap_key("kek-ek-1", &other).await.unwrap();
        assert!(matches!(token.seal(&mine, [2; 12], b"", b"t").await, Err(Error::StaleKey)));
        // Forgotten, not closed: dropping the old handle takes no key from the new one.
        drop(mine);
        assert!(token.seal(&theirs, [1; 12], b"", b"text").await.unwrap() != sealed);
        let again = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
        assert_eq!(token.open_sealed(&again, [1; 12], b"", &sealed).await.unwrap(), b"text");
        assert!(token.health().await);
    }
}

scenario! {
    /// Restarts under load: some calls fail, none ciphers under another's key.
    async fn restarts_under_load_give_no_wrong_answer(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        let stop = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(tokio::sync::Barrier::new(9));
        for task in 0u8..8 {
            let (token, stop, ready) = (token.clone(), Arc::clone(&stop), Arc::clone(&ready));
            tasks.spawn(async move {
                let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
                let mut key = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
                let (mut good, mut stale) = (0, 0);
                let answer = token.seal(&key, [task; 12], b"", b"text").await.unwrap();
                ready.wait().await;
                while !stop.load(Ordering::Relaxed) {
                    match token.seal(&key, [task; 12], b"", b"text").await {
                        Ok(sealed) => {
                            assert_eq!(sealed, answer, "ciphered under another's key");
                            good += 1;
                        }
                        Err(Error::StaleKey) => {
                            stale += 1;
                            key = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap();
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                (good, stale)
            });
        }
        let module = crate::module::Module::load(lab.module()).unwrap();
        ready.wait().await;
        for _ in 0..40 {
            let epoch = module.enter().epoch();
            module.reinitialise(epoch, Why::Failure).unwrap();
            // some work between two restarts
            for _ in 0..20 {
                token.random(8).await.unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for (good, stale) in tasks.join_all().await {
            assert!(good > 0 && stale > 0, "{good} {stale}");
        }
    }
}
