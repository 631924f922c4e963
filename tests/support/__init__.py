"""What tests share: fakes, services, builders."""
