//! Every interleaving of the queue between shards and of its doorbell: their own source, on loom's types.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "all of the file is built, as a part of this test")]

#[path = "../src/handover/queue.rs"]
mod queue;

use loom::sync;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};

use queue::{Doorbell, queue};

#[test]
fn every_value_arrives_once_in_order() {
    loom::model(|| {
        let (mut inlet, mut outlet) = queue(2);
        let sender = loom::thread::spawn(move || {
            for value in 0..3 {
                let mut value = value;
                while let Err(back) = inlet.push(value) {
                    value = back;
                    loom::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < 3 {
            match outlet.pop() {
                Some(value) => {
                    assert_eq!(value, expected);
                    expected += 1;
                }
                None => loom::thread::yield_now(),
            }
        }
        sender.join().expect("the sender does not panic");
    });
}

/// Two senders, one shard: whatever the interleaving, a message is seen before the shard sleeps or it is woken.
#[test]
fn no_message_is_slept_through() {
    loom::model(|| {
        let bell = Arc::new(Doorbell::default());
        let woken = Arc::new(AtomicBool::new(false));
        let mut outlets = Vec::new();
        let senders: Vec<_> = (0..2)
            .map(|value| {
                let (mut inlet, outlet) = queue(1);
                outlets.push(outlet);
                let (bell, woken) = (Arc::clone(&bell), Arc::clone(&woken));
                loom::thread::spawn(move || {
                    inlet.push(value).expect("it is empty");
                    if bell.must_wake() {
                        woken.store(true, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        bell.fall_asleep();
        let seen = outlets.iter().any(|outlet| !outlet.is_empty());
        for sender in senders {
            sender.join().expect("senders do not panic");
        }
        // The kernel would sleep only if nothing was seen, and end the sleep when woken.
        assert!(seen || woken.load(Ordering::SeqCst), "a message is slept through");
    });
}
