use larder::cached;

type Answer = Result<u64, String>;

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn under_another_name(id: u64) -> Answer {
    Ok(id)
}

fn main() {
    let _future = under_another_name(7);
}
