"""Choose the samples worth training on (by principles, far apart, at random or all), with a reason for each drop."""
