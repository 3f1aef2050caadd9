//! From token to log: the lookup in tables of several sizes, in an order that no cache knows beforehand.
//!
//! `hit` looks up tokens of logs that exist, `miss` others. What a connection gains whose lines share their token shows
//! in the bench `shard`, as `own_log`. Each lookup depends on nothing before it, as in the engine.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::handover::ShardId;
use engine::route::{LogId, Ownership, Route, Router};
use engine::wire::Token;

const LOOKUPS: usize = 1 << 14;
const LOGS_MAX: usize = 100_000;
/// Coprime with every number of logs here: its multiples reach all of them, far apart.
const STRIDE: usize = 7919;

fn lookups(router: &Router, tokens: &[Token]) -> u64 {
    let found = tokens.iter().map(|token| match router.route(*token) {
        Route::Mine(LogId(log)) => u64::from(log) + 1,
        Route::New | Route::Foreign(_) => 0,
    });
    found.sum()
}

fn route_benches(criterion: &mut Criterion) {
    let tokens: Vec<Token> = benches::tokens(LOGS_MAX + LOOKUPS).into_iter().map(Token::from_bytes).collect();
    let (known, strangers) = tokens.split_at(LOGS_MAX);
    for logs in [100, 10_000, LOGS_MAX] {
        let mut router = Router::new(Ownership::over(1), ShardId(0));
        for (log, token) in (0..).zip(&known[..logs]) {
            router.insert(*token, LogId(log));
        }
        let order: Vec<usize> = (0..LOOKUPS).map(|lookup| lookup * STRIDE % logs).collect();
        let asked: Vec<Token> = order.iter().map(|&log| known[log]).collect();
        let expected: u64 = order.iter().map(|&log| log as u64 + 1).sum();
        let mut group = criterion.benchmark_group(format!("route/{logs}_logs"));
        group.throughput(Throughput::Elements(LOOKUPS as u64));
        for (name, asked, expected) in [("hit", asked.as_slice(), expected), ("miss", strangers, 0)] {
            assert_eq!(lookups(&router, asked), expected, "{name}");
            group.bench_function(name, |bencher| bencher.iter(|| lookups(&router, black_box(asked))));
        }
        group.finish();
    }
}

criterion_group!(benches, route_benches);
criterion_main!(benches);
