use larder::CacheClient;
use std::time::Instant;
async fn block(cache: &CacheClient, keys: &[String], n: usize) -> f64 {
    let at = Instant::now();
    for i in 0..n {
        let got = cache.get_bytes(&keys[i % keys.len()]).await.unwrap();
        assert!(got.is_some());
    }
    at.elapsed().as_nanos() as f64 / n as f64
}
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let n: usize = std::env::args().nth(2).map_or(400, |n| n.parse().unwrap());
    tokio::spawn(async move {
        let observed = CacheClient::memory();
        let plain = CacheClient::builder().unobserved().build().unwrap();
        let keys: Vec<String> = (0..1024).map(|i| format!("bench:value:{i:04}")).collect();
        for key in &keys {
            observed.set_value(key, vec![b'x'; 100], None).await.unwrap();
            plain.set_value(key, vec![b'x'; 100], None).await.unwrap();
        }
        match &*mode {
            "o" => { block(&observed, &keys, n * 10_000).await; }
            "p" => { block(&plain, &keys, n * 10_000).await; }
            _ => {
                let (mut os, mut ps, mut ds) = (vec![], vec![], vec![]);
                for turn in 0..n {
                    let (o, p);
                    if turn % 2 == 0 { o = block(&observed, &keys, 1024).await; p = block(&plain, &keys, 1024).await; }
                    else { p = block(&plain, &keys, 1024).await; o = block(&observed, &keys, 1024).await; }
                    os.push(o); ps.push(p); ds.push(o - p);
                }
                for v in [&mut os, &mut ps, &mut ds] { v.sort_by(f64::total_cmp); }
                let q = |v: &Vec<f64>| format!("min {:.1} p5 {:.1} median {:.1}", v[0], v[v.len()/20], v[v.len()/2]);
                println!("observed   {}\nunobserved {}\ndifference p10 {:.1} median {:.1}; of minima {:.1}, of p5 {:.1}, of medians {:.1}", q(&os), q(&ps), ds[ds.len()/10], ds[ds.len()/2], os[0]-ps[0], os[os.len()/20]-ps[ps.len()/20], os[os.len()/2]-ps[ps.len()/2]);
            }
        }
    }).await.unwrap();
}
